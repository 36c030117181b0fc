# SPDX-License-Identifier: Apache-2.0
"""What batch normalization adds to the blocks of a network.

    python -m benchmarks.blocks
    python -m benchmarks.blocks --times=8 --jit_compile --calls=10  # on a GPU

Eight blocks follow one another, each a dense layer or a convolution, batch
normalization, and a ReLU: with our layer, with Keras', and without any. Within
a network, a layer's input is in other caches than after another layer of the
same kind, and TensorFlow's graph optimizer may fuse the layer with its
neighbours: with a convolution that is not depthwise and has no bias.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_bn
from benchmarks import measure, tables

FLAGS = flags.FLAGS

#: `frozen`: in training, but batch normalization is not trainable.
PASSES = ("inference", "training", "frozen")
BLOCKS = 8
#: What comes first in a block, with as many units as inputs or maps.
FIRST: dict[str, Callable[[int], keras.Layer]] = {
    "dense": lambda units: keras.layers.Dense(units, use_bias=False),
    "convolution, 1x1": lambda maps: _convolution(maps, 1),
    "convolution, 3x3": lambda maps: _convolution(maps, 3),
    "with bias, 1x1": lambda maps: _convolution(maps, 1, use_bias=True),
    "sequences, 3": lambda maps: keras.layers.Conv1D(
        maps, 3, padding="same", use_bias=False
    ),
    "depthwise, 3x3": lambda _: keras.layers.DepthwiseConv2D(
        3, padding="same", use_bias=False
    ),
}
#: Suffix of cases whose graph knows the number of maps, but no other size.
UNKNOWN = ", sizes unknown"
CASES = (
    ("dense", (60, 100)),
    ("dense", (64, 512)),
    ("dense", (128, 1024)),
    ("dense", (256, 1024)),
    ("convolution, 1x1", (8, 14, 14, 64)),
    ("convolution, 3x3", (8, 14, 14, 64)),
    ("convolution, 3x3", (32, 14, 14, 64)),
    ("convolution, 3x3", (32, 28, 28, 64)),
    ("with bias, 1x1", (8, 14, 14, 64)),
    ("with bias, 1x1", (32, 14, 14, 64)),
    ("with bias, 1x1", (32, 28, 28, 64)),
    (f"with bias, 1x1{UNKNOWN}", (8, 14, 14, 64)),
    (f"with bias, 1x1{UNKNOWN}", (32, 28, 28, 64)),
    ("sequences, 3", (32, 100, 64)),
    ("sequences, 3", (32, 400, 128)),
    ("depthwise, 3x3", (8, 14, 14, 64)),
    ("depthwise, 3x3", (32, 14, 14, 64)),
    ("depthwise, 3x3", (32, 28, 28, 64)),
)
MAKERS: dict[str, Any] = {
    "none": None,
    "ours": keras_bn.BatchNormalization,
    "keras": keras.layers.BatchNormalization,
}
NORMALIZATIONS = tuple(filter(None, MAKERS.values()))


def _convolution(maps: int, size: int, use_bias: bool = False) -> keras.Layer:
    return keras.layers.Conv2D(maps, size, padding="same", use_bias=use_bias)


def network(block: str, shape: tuple[Any, ...], make: Any) -> keras.Model:
    """The blocks; their tensors have the shape of the input."""
    keras.utils.set_random_seed(0)
    if block.endswith(UNKNOWN):
        shape = (*[None] * (len(shape) - 1), shape[-1])
    inputs = x = keras.Input(batch_shape=shape)
    for _ in range(BLOCKS):
        x = FIRST[block.removesuffix(UNKNOWN)](shape[-1])(x)
        if make is not None:
            x = make()(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, x)


def run_of(
    model: keras.Model, x: Any, pass_: str, *, jit_compile: bool
) -> Callable[[], Any]:
    """One inference, or one training pass with all gradients."""
    if pass_ == "frozen":
        for layer in model.layers:
            layer.trainable = not isinstance(layer, NORMALIZATIONS)

    signature = tf.TensorSpec(model.inputs[0].shape)

    @tf.function(
        autograph=False, input_signature=[signature], jit_compile=jit_compile
    )
    def run(x: Any) -> Any:
        if pass_ == "inference":
            return model(x, training=False)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        return tape.gradient(loss, model.trainable_variables)

    return lambda: run(x)


def row(
    pass_: str,
    block: str,
    shape: tuple[int, ...],
    rounds: int,
    jit_compile: bool,
    calls: int,
    dtype: str,
) -> dict[str, Any]:
    """Seconds of a block, by its normalization."""
    keras.config.set_dtype_policy(dtype)
    values = np.random.default_rng(1).standard_normal(shape, np.float32)
    x = tf.constant(values)

    def several(make: Any) -> Callable[[], Any]:
        model = network(block, shape, make)
        run = run_of(model, x, pass_, jit_compile=jit_compile)
        return lambda: [run() for _ in range(calls)]

    seconds = measure.interleaved(
        {name: several(make) for name, make in MAKERS.items()},
        rounds=rounds,
        warm_up=20,
    )
    return {
        "pass": pass_,
        "block": block,
        "shape": list(shape),
        "jit_compile": jit_compile,
        "calls": calls,
        "dtype": dtype,
        "seconds": {name: s / (calls * BLOCKS) for name, s in seconds.items()},
    }


def rows(
    *,
    passes: Sequence[str],
    blocks: Sequence[str],
    times: int,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Every case in a process of its own, with batches `times` as large.

    `options` are those of `row`.
    """
    for pass_, (block, (batch, *others)) in itertools.product(passes, CASES):
        if block.removesuffix(UNKNOWN) in blocks:
            shape = (batch * times, *others)
            case = functools.partial(row, pass_, block, shape, **options)
            yield measure.in_a_process(case)


def markdown(measured: Sequence[dict[str, Any]]) -> str:
    """The table of docs/performance.md: what BN adds, in microseconds."""
    head = ["", "block", "shape", "without", "ours adds", "", "Keras' adds", ""]
    lines: list[list[Any]] = [head]
    for case in measured:
        without, *with_bn = (case["seconds"][name] * 1e6 for name in MAKERS)
        added = [
            cell
            for micros in with_bn
            for cell in (
                f"{micros - without:z,.0f}",
                f"{micros / without - 1:z.0%}",
            )
        ]
        cells = [case["pass"], case["block"], case["shape"], f"{without:,.0f}"]
        lines.append([*cells, *added])
    return tables.markdown(lines, right=5)


def main(_: list[str]) -> None:
    """Measures, writes the JSON after each case, prints a table."""
    options = "rounds", "jit_compile", "calls", "dtype"
    names = "passes", "blocks", "times", *options
    measured = []
    for found in rows(**{name: FLAGS[name].value for name in names}):
        measured.append(found)
        measure.write(FLAGS.output, measured)
        print(*list(found.values())[:3], flush=True)
    print(markdown(measured))


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 60, "turns of each", lower_bound=1)
    flags.DEFINE_multi_enum("passes", list(PASSES), PASSES, "which to measure")
    flags.DEFINE_multi_enum("blocks", list(FIRST), FIRST, "which to measure")
    flags.DEFINE_integer("times", 1, "factor of batch sizes", lower_bound=1)
    flags.DEFINE_bool("jit_compile", False, "compile all of it with XLA")
    flags.DEFINE_integer(
        "calls",
        1,
        "calls in a row, after which a GPU is waited for",
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "mixed_float16", "mixed_bfloat16"],
        "dtype policy of all layers",
    )
    flags.DEFINE_string("output", "build/bench/blocks.json", "file to write")
    app.run(main)
