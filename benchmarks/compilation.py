# SPDX-License-Identifier: Apache-2.0
"""What compiling costs: the first step of a network, and sizes that change.

    python -m benchmarks.compilation --output=docs/results/compilation.json

Seconds of the first calls, tracing and compiling included, and by how much they
let the process grow:

- `first step`: `train_on_batch` of a ResNet50 at 96 pixels, batch 16;
- `fit, two sizes`: `fit` of the same on a batch of 16 and a last one of 9;
- `inference, 40 sizes`: `predict_on_batch` of one layer on `[n, 64, 64, 16]`;
- `training, 30 sizes`: `fit` of one layer on `[n, 7, 7, 64]`;
- `eager, 20 sizes`: forward and backward on `[n, 64]`, outside graphs.

`ours` compiles as it does by default, `plain` runs within
`keras_bn.ops.without_compiling()`, `keras` is Keras' layer. Each runs in a
fresh process, in turn; figures are medians.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_bn
from benchmarks import measure, tables

FLAGS = flags.FLAGS

CONTESTANTS = ("ours", "plain", "keras")
Layer = Any  # keras.layers.Layer is untyped for mypy.


def main(_: list[str]) -> None:
    """Measures, prints a table, writes the JSON."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {
        case: {name: [] for name in CONTESTANTS} for case in CASES
    }
    for _round in range(FLAGS.rounds):
        for case in CASES:
            for name in CONTESTANTS:
                figures = measure.in_a_process(first_calls, case, name)
                found[case][name].append(figures)
                print(f"{case}, {name}: {figures[0]:.1f} s", flush=True)
    results = {
        case: {
            name: dict(
                zip(
                    ("seconds", "mib"),
                    map(statistics.median, zip(*figures, strict=True)),
                    strict=True,
                )
            )
            for name, figures in by_name.items()
        }
        for case, by_name in found.items()
    }
    print(markdown(results))
    measure.write(FLAGS.output, results)


def markdown(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The table for the docs."""
    head = ["", *(f"{name}, s" for name in CONTESTANTS), "ours, MiB", "keras"]
    rows = [
        [
            case,
            *(f"{by_name[name]['seconds']:.1f}" for name in CONTESTANTS),
            *(f"{by_name[name]['mib']:.0f}" for name in ("ours", "keras")),
        ]
        for case, by_name in results.items()
    ]
    return tables.markdown([head, *rows], right=5)


def first_calls(case: str, contestant: str) -> tuple[float, float]:
    """Seconds that a case takes in this process, and MiB that it adds."""
    keras.utils.set_random_seed(0)
    kind = keras_bn if contestant != "keras" else keras.layers
    compiling = (
        keras_bn.ops.without_compiling()
        if contestant == "plain"
        else contextlib.nullcontext()
    )
    run = CASES[case](kind.BatchNormalization)
    before = measure.memory("VmRSS")
    with compiling:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    return seconds, measure.memory("VmRSS") - before


def _resnet(layer: Layer) -> keras.Model:
    model = keras.applications.ResNet50(
        weights=None, input_shape=(96, 96, 3), classes=10
    )
    if layer is keras_bn.BatchNormalization:
        model = keras_bn.convert(model)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return model


def _labelled(count: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 96, 96, 3)).astype(np.float32)
    return x, rng.integers(10, size=count)


def _first_step(layer: Layer) -> Callable[[], Any]:
    model, batch = _resnet(layer), _labelled(16)
    return lambda: model.train_on_batch(*batch)


def _two_sizes(layer: Layer) -> Callable[[], Any]:
    model, (x, y) = _resnet(layer), _labelled(25)
    return lambda: model.fit(x, y, batch_size=16, verbose=0)


def _model(layer: Layer, shape: Sequence[int]) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), layer()])
    model.compile("sgd", "mse", jit_compile=False)
    return model


def _inference(layer: Layer) -> Callable[[], Any]:
    model = _model(layer, (64, 64, 16))

    def run() -> None:
        for size in range(1, 41):
            model.predict_on_batch(np.zeros((size, 64, 64, 16), np.float32))

    return run


def _training(layer: Layer) -> Callable[[], Any]:
    shape = (7, 7, 64)
    model = _model(layer, shape)
    spec = tf.TensorSpec((None, *shape))

    def batches() -> Any:
        for size in range(21, 51):
            x = np.ones((size, *shape), np.float32)
            yield x, x

    data = tf.data.Dataset.from_generator(
        batches, output_signature=(spec, spec)
    )
    return lambda: model.fit(data, verbose=0)


def _eager(layer: Layer) -> Callable[[], Any]:
    norm = layer()
    norm.build((None, 64))

    def run() -> None:
        for size in range(1001, 1021):
            x = tf.ones((size, 64))
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(norm(x, training=True) ** 2)
            tape.gradient(loss, [x, *norm.trainable_variables])

    return run


CASES: dict[str, Callable[[Layer], Callable[[], Any]]] = {
    "first step": _first_step,
    "fit, two sizes": _two_sizes,
    "inference, 40 sizes": _inference,
    "training, 30 sizes": _training,
    "eager, 20 sizes": _eager,
}


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 3, "processes of each", lower_bound=1)
    flags.DEFINE_string("output", "build/bench/compilation.json", "to write")
    app.run(main)
