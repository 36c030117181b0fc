# SPDX-License-Identifier: Apache-2.0
"""Ways to sum values and their squares per feature: passes and errors.

    python -m benchmarks.sums

These two sums are what batch normalization needs most, forward (of x and its
square) and backward (of dy and its product with x). Each way computes both
sums, for ten tensors one after the other in one graph. A *copy* reads a tensor
once and writes it once. The error is the largest one of a mean or a mean
square, against float64, for normal values with mean 1 and standard deviation 1.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
from absl import app, flags
from numpy.typing import NDArray

from benchmarks import measure, tables
from keras_bn.backend import reductions

FLAGS = flags.FLAGS
Tensor = Any
Array = NDArray[Any]
Pair = tuple[Tensor, Tensor]
Sums = Callable[[Tensor], Pair]

#: `[N, ..., C]`; the first two are folded once, the others twice.
SHAPES = ((256, 1024), (512, 1024), (32, 28, 28, 96), (32, 14, 14, 576))
TENSORS = 10


def reduce_sum(x: Tensor) -> Pair:
    """`Sum` over the leading axes."""
    axes = list(range(len(x.shape) - 1))
    return tf.reduce_sum(x, axes), tf.reduce_sum(tf.square(x), axes)


def in_blocks(x: Tensor) -> Pair:
    """What the layer does without XLA: `Sum` over blocks of rows, in steps."""
    return reductions.in_blocks(_powers, [_rows(x)], (0,))


def product(x: Tensor) -> Pair:
    """A matrix product with a row of ones."""
    rows = _rows(x)
    ones = tf.ones([1, rows.shape[0]])
    return (ones @ rows)[0], (ones @ tf.square(rows))[0]


def bias_add_grad(x: Tensor) -> Pair:
    """`BiasAddGrad`."""
    return (
        tf.raw_ops.BiasAddGrad(out_backprop=x),
        tf.raw_ops.BiasAddGrad(out_backprop=tf.square(x)),
    )


def euclidean_norm(x: Tensor) -> Pair:
    """`Sum`, and `EuclideanNorm`, which does not write squares to memory."""
    axes = list(range(len(x.shape) - 1))
    norm = tf.math.reduce_euclidean_norm(x, axes)
    return tf.reduce_sum(x, axes), tf.square(norm)


def fused(x: Tensor) -> Pair:
    """The moments that `FusedBatchNormV3` finds while it normalizes."""
    features = x.shape[-1]
    _, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x, [x.shape[0], -1, 1, features]),
        scale=tf.ones([features]),
        offset=tf.zeros([features]),
        mean=tf.constant([]),
        variance=tf.constant([]),
        is_training=True,
    )
    number = math.prod(x.shape[:-1])
    # The variance is the unbiased one.
    square = variance * ((number - 1) / number) + tf.square(mean)
    return number * mean, number * square


@tf.function(autograph=False, jit_compile=True)
def xla(x: Tensor) -> Pair:
    """XLA's own reduction."""
    return reduce_sum(x)


def slices(
    count: int,
    *,
    of_few: int,
    if_once: int,
    folded_once: int = reductions._FOLDED_ONCE,
) -> Sums:
    """What the layer does with XLA: slices of a tensor are added up.

    Args:
        count: Slices, in two stages, if a feature has more values than below.
        of_few: Slices, in one stage, if it has at most 256.
        if_once: Slices, in one stage, if it has more.
        folded_once: Values up to which there is one stage.
    """

    @tf.function(autograph=False, jit_compile=True)
    def run(x: Tensor) -> Pair:
        with mock.patch.multiple(
            reductions,
            _SLICES=count,
            _SLICES_OF_FEW=of_few,
            _SLICES_IF_ONCE=if_once,
            _FOLDED_ONCE=folded_once,
        ):
            return reductions.folded(_powers, [_rows(x)], (0,))

    return run


@tf.function(autograph=False, jit_compile=True)
def two_reads(x: Tensor) -> Pair:
    """Sixteen slices as well, but one sum after the other."""
    return (
        _real_sums(_rows(x), strided=False),
        _real_sums(tf.square(_rows(x)), strided=False),
    )


@tf.function(autograph=False, jit_compile=True)
def strided(x: Tensor) -> Pair:
    """The same, but each slice takes every sixteenth row instead of a block."""
    return (
        _real_sums(_rows(x), strided=True),
        _real_sums(tf.square(_rows(x)), strided=True),
    )


CONTESTANTS: dict[str, Sums] = {
    "reduce_sum": reduce_sum,
    "in_blocks": in_blocks,
    "product": product,
    "bias_add_grad": bias_add_grad,
    "euclidean_norm": euclidean_norm,
    "fused": fused,
    "xla": xla,
    "ours": slices(16, of_few=4, if_once=8),
    "slices, half": slices(8, of_few=2, if_once=4),
    "slices, double": slices(32, of_few=8, if_once=16),
    "slices, twice": slices(
        16, of_few=4, if_once=8, folded_once=reductions.FEW
    ),
    "slices, two reads": two_reads,
    "slices, strided": strided,
}


def _rows(x: Tensor) -> Tensor:
    return tf.reshape(x, [-1, x.shape[-1]])


def _powers(x: Tensor) -> Pair:
    return x, tf.square(x)


def _real_sums(rows: Tensor, *, strided: bool, count: int = 16) -> Tensor:
    """Sums of `[n, C]`, by two stages of slices."""
    for _ in range(2 if rows.shape[0] > reductions.FEW else 1):
        size = rows.shape[0] // count
        whole, tail = rows[: size * count], rows[size * count :]
        parts = (
            [whole[k::count] for k in range(count)]
            if strided
            else tf.split(whole, count)
        )
        rows = tf.concat([functools.reduce(tf.add, parts), tail], 0)
    return tf.reduce_sum(rows, 0)


def error(sums: Sums, x: Array) -> float:
    """The largest error of a mean and of a mean square."""
    wide = x.astype(np.float64).reshape(-1, x.shape[-1])
    exact = wide.mean(0), np.square(wide).mean(0)
    found = tf.function(sums, autograph=False)(tf.constant(x))
    return max(
        float(np.abs(np.asarray(total, np.float64) / len(wide) - mean).max())
        for total, mean in zip(found, exact, strict=True)
    )


def row(shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Seconds per tensor and error of each way."""
    rng = np.random.default_rng(0)
    values = [
        rng.normal(1.0, 1.0, shape).astype(np.float32) for _ in range(TENSORS)
    ]
    tensors = [tf.constant(x) for x in values]

    def repeated(function: Callable[[Tensor], Any]) -> Callable[[], object]:
        @tf.function(autograph=False)
        def run(tensors: list[Tensor]) -> list[Any]:
            results: list[Any] = []
            for x in tensors:
                with tf.control_dependencies(tf.nest.flatten(results[-1:])):
                    results.append(function(tf.identity(x)))
            return results

        return lambda: run(tensors)

    taken = measure.interleaved(
        {
            "copy": repeated(lambda x: tf.raw_ops.DeepCopy(x=x)),
            **{name: repeated(sums) for name, sums in CONTESTANTS.items()},
        },
        rounds=rounds,
    )
    return {
        "shape": list(shape),
        "seconds": {name: s / TENSORS for name, s in taken.items()},
        "error": {
            name: error(sums, values[0]) for name, sums in CONTESTANTS.items()
        },
    }


def rows(rounds: int) -> Iterator[dict[str, Any]]:
    """Each shape in a process of its own."""
    for shape in SHAPES:
        yield measure.in_a_process(row, shape, rounds)


def main(_: list[str]) -> None:
    """Measures, prints a table, writes the JSON."""
    measured = list(rows(FLAGS.rounds))
    shapes = [str(row["shape"]) for row in measured]
    lines = [["copies and error", *shapes]]
    for name in CONTESTANTS:
        cells = [name]
        for row_ in measured:
            copies = row_["seconds"][name] / row_["seconds"]["copy"]
            cells.append(f"{copies:.2f}, {row_['error'][name]:.0e}")
        lines.append(cells)
    print(tables.markdown(lines))
    measure.write(FLAGS.output, measured)


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 15, "turns of each", lower_bound=1)
    flags.DEFINE_string("output", "build/bench/sums.json", "file to write")
    app.run(main)
