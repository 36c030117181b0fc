# SPDX-License-Identifier: Apache-2.0
"""Seconds of one layer: ours against Keras' layer and the fused kernel.

    python -m benchmarks.layer --output=docs/results/layer.json
    python -m benchmarks.layer --markdown=docs/results/layer.json

Each contestant runs ten times within one graph; on a tensor of a few thousand
values it runs a hundred times, with a longer warm-up and more rounds, because
the call of a graph takes as long as ten such layers. (If XLA compiles it, it
runs ten times there, too, because XLA does some work twice in longer chains;
the call is then part of the figure.) The runs are chained: each takes the
gradient of the run before as its input and that run's output as its cotangent,
so that none can be skipped or run in parallel. Backward means the gradients of
input, gamma and beta. Each case has a process of its own, in which the
contestants take turns in changing order; figures are medians. `--markdown`
prints the results in a file and measures nothing.

- `ours`, `keras`: the layers, moving averages included; `.. xla`: the same
  compiled by XLA as a whole, where sizes are known;
- `fused`: TensorFlow's FusedBatchNormV3, with two moving averages;
- `torch`: torch.nn.functional.batch_norm in a loop of its own, if installed;
- `copy`: reads the tensor once and writes it once: the lower bound is two
  copies forward, and two and a half backward (four and five passes).
"""

import functools
import importlib.util
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_bn
from benchmarks import measure, tables

FLAGS = flags.FLAGS
Tensor = Any
Row = dict[str, Any]

PASSES = ("forward", "forward+backward", "inference")
SHAPES = (
    (60, 100),
    (256, 1024),
    (32, 28, 28, 96),
    (32, 56, 56, 64),
    (32, 14, 14, 576),
    (32, 7, 7, 1024),
)
#: Runs of a contestant within one call.
REPEATS = 10
#: The most values of a small tensor, and its runs if XLA does not compile them.
FEW, REPEATS_OF_FEW = 2**14, 100
#: Calls after which TensorFlow knows which operations are too short for another
#: thread: its initial guess loses a tenth of its weight at each call.
WARM_UP_OF_FEW = 120
#: Small tensors have this many times as many rounds.
ROUNDS_OF_FEW = 10
#: Names of the other contestants in tables.
HEADS = {
    "keras": "Keras",
    "keras xla": "Keras, XLA",
    "ours xla": "ours, XLA",
    "fused": "fused",
    "torch": "torch",
}
#: Case of a graph that knows the rank of its input and the features, no more.
UNKNOWN = "sizes unknown"
#: name, shape, feature axis, dtype policy, activation
CASES = (
    *[("float32", shape, -1, "float32", None) for shape in SHAPES],
    *[("relu", shape, -1, "float32", "relu") for shape in SHAPES],
    ("channels first", (32, 96, 28, 28), 1, "float32", None),
    ("mixed_bfloat16", (32, 28, 28, 96), -1, "mixed_bfloat16", None),
    *[
        (UNKNOWN, shape, -1, "float32", None)
        for shape in (
            (60, 100),
            (32, 100, 64),
            (8, 14, 14, 64),
            (32, 28, 28, 96),
        )
    ],
)


def fused(
    *, shape: Sequence[int], training: bool
) -> Callable[[Tensor], Tensor]:
    """The kernel as a layer; channels last only."""
    channels = shape[-1]
    gamma, beta = (
        tf.Variable(tf.ones(channels)),
        tf.Variable(tf.zeros(channels)),
    )
    mean = tf.Variable(tf.zeros(channels), trainable=False)
    variance = tf.Variable(tf.ones(channels), trainable=False)

    def run(x: Tensor) -> Tensor:
        y, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(x, [-1, *[1] * (4 - len(shape)), *shape[1:]]),
            scale=gamma,
            offset=beta,
            mean=tf.constant([]) if training else mean,
            variance=tf.constant([]) if training else variance,
            epsilon=1e-3,
            is_training=training,
        )
        if training:
            mean.assign_sub((mean - batch_mean) * 0.01)
            variance.assign_sub((variance - batch_variance) * 0.01)
        return tf.reshape(y, shape)

    return run


def layer(
    make: Callable[..., Any],
    *,
    shape: Sequence[int],
    axis: int,
    policy: str,
    training: bool,
    activation: str | None,
) -> Callable[[Tensor], Tensor]:
    """A layer, and an activation within it or after it."""
    options: dict[str, Any] = {"axis": axis, "dtype": policy}
    within = make is keras_bn.BatchNormalization
    if within:
        options["activation"] = activation
    built = make(**options)
    built.build(shape)
    after = None if within else keras.activations.get(activation)

    def run(x: Tensor) -> Tensor:
        y = built(x, training=training)
        return y if after is None else after(y)

    return run


def repeats(shape: Sequence[int], contestant: str) -> int:
    """Runs of a contestant within one call."""
    few = math.prod(shape) <= FEW and not contestant.endswith("xla")
    return REPEATS_OF_FEW if few else REPEATS


def repeated(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    dy: Tensor,
    *,
    backward: bool,
    times: int = REPEATS,
    jit_compile: bool = False,
    known: bool = True,
) -> Callable[[], object]:
    """A chain of runs, each on the gradient and the output of the last.

    Unless sizes are `known`, the graph accepts inputs of any size.
    """
    any_size = tf.TensorSpec(
        [*[None] * (len(x.shape) - 1), x.shape[-1]], x.dtype
    )

    @tf.function(
        autograph=False,
        jit_compile=jit_compile,
        input_signature=None if known else [any_size, any_size],
    )
    def run(x: Tensor, dy: Tensor) -> list[Tensor]:
        of_parameters: list[Tensor] = []
        for _ in range(times):
            if not backward:
                x = function(x)
                continue
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
            sources = [x, *tape.watched_variables()]
            found = tape.gradient(y, sources, output_gradients=dy)
            x, dy = found[0], y
            of_parameters += found[1:]
        return [x, dy, *of_parameters]

    return lambda: run(x, dy)


def torch_layer(
    x: np.ndarray,
    dy: np.ndarray,
    *,
    backward: bool,
    training: bool,
    relu: bool,
    times: int,
) -> Callable[[], object]:
    """The same in torch; channels last."""
    import torch

    values = torch.from_numpy(np.moveaxis(x, -1, 1))
    cotangent = torch.from_numpy(np.moveaxis(dy, -1, 1))
    module = torch.nn.BatchNorm1d if x.ndim == 2 else torch.nn.BatchNorm2d
    batch_norm = module(x.shape[-1], eps=1e-3, momentum=0.01)
    batch_norm.train(training)

    def run() -> None:
        for _ in range(times):
            source = values.detach().requires_grad_(backward)
            y = batch_norm(source)
            y = torch.relu(y) if relu else y
            if backward:
                y.backward(cotangent)

    return run


def contestants(
    name: str,
    shape: Sequence[int],
    axis: int,
    policy: str,
    activation: str | None,
    pass_: str,
) -> dict[str, Callable[[], object]]:
    """Everything that can run a case."""
    known = name != UNKNOWN
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(2)]
    dtype = keras.dtype_policies.get(policy).compute_dtype
    x, dy = (tf.cast(array, dtype) for array in arrays)
    training, backward = pass_ != "inference", pass_ == "forward+backward"
    make = functools.partial(
        layer,
        shape=shape,
        axis=axis,
        policy=policy,
        training=training,
        activation=activation,
    )
    run = functools.partial(
        repeated, x=x, dy=dy, backward=backward, times=repeats(shape, "")
    )
    compiled = functools.partial(run, times=REPEATS, jit_compile=True)
    run = functools.partial(run, known=known)
    ours, theirs = keras_bn.BatchNormalization, keras.layers.BatchNormalization
    result = {
        "copy": run(_copy, backward=False),
        "ours": run(make(ours)),
        "keras": run(make(theirs)),
    }
    if known:
        result |= {
            "ours xla": compiled(make(ours)),
            "keras xla": compiled(make(theirs)),
        }
    if policy == "float32" and axis == -1:
        kernel = fused(shape=shape, training=training)
        after = keras.activations.get(activation)
        result["fused"] = run(lambda x: after(kernel(x)))
        if importlib.util.find_spec("torch"):
            result["torch"] = torch_layer(
                *arrays,
                backward=backward,
                training=training,
                relu=activation == "relu",
                times=repeats(shape, "torch"),
            )
    return result


def _copy(x: Tensor) -> Tensor:
    return tf.raw_ops.DeepCopy(x=x)


def measured(rounds: int, times: int) -> Iterator[Row]:
    """Each case in a process of its own, with batches `times` as large."""
    for pass_ in PASSES:
        for name, (batch, *others), *rest in CASES:
            shape = (batch * times, *others)
            yield measure.in_a_process(row, pass_, name, shape, *rest, rounds)


def row(
    pass_: str,
    name: str,
    shape: tuple[int, ...],
    axis: int,
    policy: str,
    activation: str | None,
    rounds: int,
) -> Row:
    """Measures one case: seconds of one run by name."""
    few = math.prod(shape) <= FEW
    seconds = measure.interleaved(
        contestants(name, shape, axis, policy, activation, pass_),
        rounds=rounds * (ROUNDS_OF_FEW if few else 1),
        warm_up=WARM_UP_OF_FEW if few else 1,
    )
    return {
        "pass": pass_,
        "case": name,
        "shape": list(shape),
        "seconds": {n: s / repeats(shape, n) for n, s in seconds.items()},
    }


def markdown(rows: Sequence[Row]) -> str:
    """A table for each pass, and one of geometric means."""
    return "\n\n".join(
        [*(_table(rows, pass_) for pass_ in PASSES), _summary(rows)]
    )


def _table(rows: Sequence[Row], pass_: str) -> str:
    others = [
        name for name in HEADS if any(name in row["seconds"] for row in rows)
    ]
    heads = [HEADS[name] for name in others]
    lines: list[list[Any]] = [["", "shape", "ours, µs", "copies", *heads]]
    for row in rows:
        if row["pass"] != pass_:
            continue
        seconds = row["seconds"]
        cells = [
            *(row["case"], row["shape"]),
            f"{seconds['ours'] * 1e6:,.0f}",
            f"{seconds['ours'] / seconds['copy']:.1f}",
            *(
                f"{seconds['ours'] / seconds[o]:.2f}" if o in seconds else ""
                for o in others
            ),
        ]
        lines.append(cells)
    title = f"**{pass_}**, seconds of ours over seconds of the other:"
    return f"{title}\n\n{tables.markdown(lines, right=len(lines[0]) - 2)}"


def _summary(rows: Sequence[Row]) -> str:
    lines = [
        [
            *("", "over Keras, 6 shapes"),
            "over the fused kernel, 4 shapes of rank 4",
        ]
    ]
    for pass_ in PASSES:
        for case in ("float32", "relu"):
            cells = [f"{pass_}, {case}"]
            for other, ranks in (("keras", (2, 4)), ("fused", (4,))):
                ratios = [
                    row["seconds"]["ours"] / row["seconds"][other]
                    for row in rows
                    if (row["pass"], row["case"]) == (pass_, case)
                    and len(row["shape"]) in ranks
                ]
                mean = statistics.geometric_mean(ratios)
                cells.append(f"{mean:.2f} ({max(ratios):.2f})")
            lines.append(cells)
    title = "Geometric means (and the largest):"
    return f"{title}\n\n{tables.markdown(lines, right=2)}"


def main(_: list[str]) -> None:
    """Measures, writes the JSON after each case, prints the tables."""
    if FLAGS.markdown:
        contents = json.loads(Path(FLAGS.markdown).read_text("utf-8"))
        print(markdown(contents["results"]))
        return
    rows = []
    for found in measured(FLAGS.rounds, FLAGS.times):
        rows.append(found)
        measure.write(FLAGS.output, rows)
        ratio = found["seconds"]["ours"] / found["seconds"]["keras"]
        print(*list(found.values())[:3], f"{ratio:.2f}", flush=True)
    print(markdown(rows))


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 15, "turns of each", lower_bound=1)
    flags.DEFINE_integer("times", 1, "factor of batch sizes", lower_bound=1)
    flags.DEFINE_string("output", "build/bench/layer.json", "file to write")
    flags.DEFINE_string("markdown", None, "file of results to print")
    app.run(main)
