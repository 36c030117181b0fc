# SPDX-License-Identifier: Apache-2.0
"""Seconds over batch, channels, depth and threads: ours, Keras', the kernel.

    python -m benchmarks.scaling --output=docs/results/scaling.json \
        --picture=docs/pictures/scaling.png

Forward and backward in training, float32, moving averages included; measured
as `benchmarks.layer` does. One thing grows at a time:

- `batch`: 1 to 128 examples of `[28, 28, 64]`;
- `channels`: 8 to 1024 of `[32, 14, 14, channels]`;
- `depth`: 1 to 64 layers, each on the output of the one before, of
  `[32, 14, 14, 64]`, and of `[60, 100]`, which is too small for XLA.

Each number of threads is measured in a process of its own.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from matplotlib.figure import Figure

import keras_bn
from benchmarks import layer, measure
from keras_bn.writing import replacing

FLAGS = flags.FLAGS
Tensor = Any
Row = dict[str, Any]

THREADS = (1, 2)
#: What grows, and the shape and the number of layers for each of its sizes.
GROWING: dict[str, dict[int, tuple[tuple[int, ...], int]]] = {
    "batch": {n: ((n, 28, 28, 64), 1) for n in (1, 2, 4, 8, 16, 32, 64, 128)},
    "channels": {
        c: ((32, 14, 14, c), 1) for c in (8, 16, 32, 64, 128, 256, 512, 1024)
    },
    "depth": {d: ((32, 14, 14, 64), d) for d in (1, 2, 4, 8, 16, 32, 64)},
    "depth, small": {d: ((60, 100), d) for d in (1, 2, 4, 8, 16, 32, 64)},
}
TITLES = {
    "batch": "examples of [28, 28, 64]",
    "channels": "channels of [32, 14, 14, C]",
    "depth": "layers of [32, 14, 14, 64]",
    "depth, small": "layers of [60, 100]",
}
COLORS = {"ours": "C0", "keras": "C1", "fused": "C2"}
STYLES = {1: "--", 2: "-"}


def stack(
    make: Callable[[], Callable[[Tensor], Tensor]], depth: int
) -> Callable[[Tensor], Tensor]:
    """Layers one behind the other."""
    layers = [make() for _ in range(depth)]
    return lambda x: functools.reduce(lambda x, run: run(x), layers, x)


def contestants(
    shape: tuple[int, ...], depth: int
) -> dict[str, Callable[[], object]]:
    """Functions that run each contestant forward and backward."""
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.standard_normal(shape, np.float32)) for _ in "xy")
    options: dict[str, Any] = {
        "shape": shape,
        "axis": -1,
        "policy": "float32",
        "training": True,
        "activation": None,
    }
    makers = {
        "ours": lambda: layer.layer(keras_bn.BatchNormalization, **options),
        "keras": lambda: layer.layer(
            keras.layers.BatchNormalization, **options
        ),
        "fused": lambda: layer.fused(shape=shape, training=True),
    }
    return {
        name: layer.repeated(stack(make, depth), x, dy, backward=True)
        for name, make in makers.items()
    }


def rows(threads: int, rounds: int) -> list[Row]:
    """Measures everything; in a process that has not used TensorFlow yet."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return list(_rows(threads, rounds))


def _rows(threads: int, rounds: int) -> Iterator[Row]:
    for growing, sizes in GROWING.items():
        for size, (shape, depth) in sizes.items():
            seconds = measure.interleaved(
                contestants(shape, depth), rounds=rounds
            )
            yield {
                "threads": threads,
                "growing": growing,
                "size": size,
                "seconds": {n: s / layer.REPEATS for n, s in seconds.items()},
            }


def drawn(measured: Sequence[Row]) -> Figure:
    """Microseconds over what grows, both axes logarithmic."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    for growing, plot in zip(GROWING, axes.flat, strict=True):
        for threads in THREADS:
            for name, color in COLORS.items():
                points = [
                    (row["size"], row["seconds"][name] * 1e6)
                    for row in measured
                    if (row["growing"], row["threads"]) == (growing, threads)
                ]
                label = f"{name}, {threads} thread{'s' * (threads > 1)}"
                plot.loglog(
                    *zip(*points, strict=True),
                    base=2,
                    color=color,
                    linestyle=STYLES[threads],
                    marker=".",
                    label=label,
                )
        plot.set_yscale("log", base=10)
        plot.set_xticks([*GROWING[growing]], [*map(str, GROWING[growing])])
        plot.set_xlabel(TITLES[growing])
        plot.grid(alpha=0.3)
    for plot in axes[:, 0]:
        plot.set_ylabel("microseconds, forward and backward")
    axes[0, 0].legend(fontsize="small")
    return figure


def main(_: list[str]) -> None:
    """Measures, prints a table, writes the JSON and the picture."""
    measured: list[Row] = []
    for threads in THREADS:
        measured += measure.in_a_process(rows, threads, FLAGS.rounds)
    print(f"{'':14}{'size':>6}{'threads':>9}", end="")
    print(f"{'ours, us':>10}{'/ keras':>9}{'/ fused':>9}")
    for row in measured:
        ours, keras_, fused = row["seconds"].values()
        print(
            f"{row['growing']:14}{row['size']:6}{row['threads']:9}"
            f"{ours * 1e6:10.0f}{ours / keras_:9.2f}{ours / fused:9.2f}"
        )
    measure.write(FLAGS.output, measured)
    picture = Path(FLAGS.picture)
    picture.parent.mkdir(parents=True, exist_ok=True)
    with replacing(picture) as temporary:
        drawn(measured).savefig(temporary, dpi=120)


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 7, "turns of each", lower_bound=1)
    flags.DEFINE_string("output", "build/bench/scaling.json", "file to write")
    flags.DEFINE_string("picture", "build/bench/scaling.png", "plot to write")
    app.run(main)
