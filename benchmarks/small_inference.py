# SPDX-License-Identifier: Apache-2.0
"""Inference on small tensors: implementations, their seconds and errors.

    python -m benchmarks.small_inference

A hundred layers follow one another within one graph. On `[60, 100]`, an
operation takes as long as starting it, so the number of operations matters,
above all of those on the whole tensor. On the larger shapes, each of these
reads and writes the tensor, and a kernel that wakes another thread waits for
it. Keras' form, `slope * x + (beta - slope * mean)`, has two operations on the
whole tensor and cannot be exact: if `|mean|` is large, both terms are rounded
and nearly cancel. The other forms subtract the mean first.

All implementations take turns in several processes, and the two layers alone in
as many more, because what ran before a layer affects its time.

The error is the largest absolute one against float64, with mean 10,000 and
variance, gamma and beta near 1, in float32.
"""

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from numpy.typing import NDArray

import keras_bn
from benchmarks import layer, measure, tables

FLAGS = flags.FLAGS
Tensor = Any
Array = NDArray[Any]
Normalize = Callable[[Tensor], Tensor]

SHAPES = ((60, 100), (64, 512), (128, 1024), (192, 1024), (256, 1024))
TIMES = 100
#: The first shape has this many times as many rounds.
ROUNDS_OF_FIRST = 5
EPSILON = 1e-3
LARGE_MEAN = 1e4


class Designs:
    """Implementations of inference with one layer's weights.

    Args:
        weights: Variables `[C]`: gamma, beta, mean and variance.
    """

    def __init__(self, weights: list[Any]) -> None:
        self.gamma, self.beta, self.mean, self.variance = weights

    def _slope(self) -> Tensor:
        variance = tf.convert_to_tensor(self.variance)
        return self.gamma * tf.math.rsqrt(variance + EPSILON)

    def affine(self, x: Tensor) -> Tensor:
        """Keras' and the paper's form."""
        slope = self._slope()
        return x * slope + (self.beta - self.mean * slope)

    def centered(self, x: Tensor) -> Tensor:
        """`Sub`, `Mul`, `AddV2`."""
        return (x - self.mean) * self._slope() + self.beta

    def bias_add(self, x: Tensor) -> Tensor:
        """`Sub`, `Mul`, `BiasAdd`."""
        return tf.nn.bias_add((x - self.mean) * self._slope(), self.beta)

    def late_reads(self, x: Tensor) -> Tensor:
        """`bias_add`, all weights but the mean read once it is subtracted."""
        centered = x - self.mean
        with tf.control_dependencies([centered]):
            slope = self._slope()
            beta = tf.convert_to_tensor(self.beta)
        return tf.nn.bias_add(centered * slope, beta)

    def two_bias_adds(self, x: Tensor) -> Tensor:
        """`BiasAdd`, `Mul`, `BiasAdd`, and the mean negated."""
        centered = tf.nn.bias_add(x, -tf.convert_to_tensor(self.mean))
        return tf.nn.bias_add(centered * self._slope(), self.beta)

    def quotient(self, x: Tensor) -> Tensor:
        """A division, by infinity where gamma is 0."""
        std = tf.sqrt(tf.convert_to_tensor(self.variance) + EPSILON)
        return tf.nn.bias_add((x - self.mean) / (std / self.gamma), self.beta)

    def fused(self, x: Tensor) -> Tensor:
        """FusedBatchNormV3, which oneDNN takes over."""
        return self._fused(x, "NHWC")

    def fused_5d(self, x: Tensor) -> Tensor:
        """The same in a layout that oneDNN leaves alone."""
        return self._fused(x, "NDHWC")

    def _fused(self, x: Tensor, layout: str) -> Tensor:
        ones = [1] * (len(layout) - 2)
        y = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(x, [-1, *ones, x.shape[-1]]),
            scale=self.gamma,
            offset=self.beta,
            mean=self.mean,
            variance=self.variance,
            epsilon=EPSILON,
            is_training=False,
            data_format=layout,
        )[0]
        return tf.reshape(y, x.shape)

    def xla(self, x: Tensor) -> Tensor:
        """One call of `centered`, compiled by XLA."""
        return _compiled(
            x,
            *map(
                tf.convert_to_tensor,
                (self.gamma, self.beta, self.mean, self.variance),
            ),
        )


@tf.function(jit_compile=True, autograph=False)
def _compiled(x: Tensor, *weights: Tensor) -> Tensor:
    return Designs(list(weights)).centered(x)


LAYERS = ("ours", "keras")
NAMES = (
    "affine",
    "centered",
    "bias_add",
    "late_reads",
    "two_bias_adds",
    "quotient",
    "fused",
    "fused_5d",
    "xla",
)


def weights_of(features: int, mean: float) -> list[Array]:
    """Gamma, beta, mean and variance, float32 `[C]`."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.8, 1.2, (4, features))
    weights[2] += mean
    return list(weights.astype(np.float32))


def contestants(weights: list[Array]) -> dict[str, Normalize]:
    """Both layers and all designs, with the same weights."""
    ours: Any = keras_bn.BatchNormalization(epsilon=EPSILON)
    theirs = keras.layers.BatchNormalization(epsilon=EPSILON)
    for built in (ours, theirs):
        built.build((None, len(weights[0])))
        built.set_weights(weights)
    designs = Designs([weight.value for weight in ours.weights])
    return {
        "ours": functools.partial(ours, training=False),
        "keras": functools.partial(theirs, training=False),
        **{name: getattr(designs, name) for name in NAMES},
    }


def errors(shape: tuple[int, int]) -> dict[str, float]:
    """The largest error of each contestant for a large mean."""
    values = np.random.default_rng(1).normal(LARGE_MEAN, 1.0, shape)
    x = tf.constant(values, tf.float32)
    weights = weights_of(shape[-1], LARGE_MEAN)
    gamma, beta, mean, variance = (w.astype(np.float64) for w in weights)
    centered = np.asarray(x, np.float64) - mean
    exact = centered / np.sqrt(variance + EPSILON) * gamma + beta
    return {
        name: float(np.abs(np.asarray(tf.function(run)(x)) - exact).max())
        for name, run in contestants(weights).items()
    }


def seconds(
    shape: tuple[int, int], rounds: int, names: Sequence[str]
) -> dict[str, float]:
    """Median seconds per layer of the named contestants, in a fresh process."""
    x = tf.constant(np.random.default_rng(1).standard_normal(shape, np.float32))
    found = contestants(weights_of(shape[-1], 0.0))
    runs = {
        name: layer.repeated(found[name], x, x, backward=False, times=TIMES)
        for name in names
    }
    first = shape == SHAPES[0]
    taken = measure.interleaved(
        runs,
        rounds=rounds * (ROUNDS_OF_FIRST if first else 1),
        warm_up=layer.WARM_UP_OF_FEW if first else 1,
    )
    return {name: of_all / TIMES for name, of_all in taken.items()}


def rows(processes: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Ratios to Keras' layer, one per process, and the errors."""
    companies = (("all", LAYERS + NAMES), ("layers", LAYERS))
    for shape, (company, names) in itertools.product(SHAPES, companies):
        wrong = errors(shape)
        taken = [
            measure.in_a_process(seconds, shape, rounds, names)
            for _ in range(processes)
        ]
        for name in names:
            yield {
                "shape": list(shape),
                "design": name,
                "in turn with": company,
                "seconds": [one[name] for one in taken],
                "over keras": [one[name] / one["keras"] for one in taken],
                "error at a large mean": wrong[name],
            }


def main(_: list[str]) -> None:
    """Measures, writes the JSON, prints a table."""
    measured = list(rows(FLAGS.processes, FLAGS.rounds))
    head = ["shape", "", "in turn with", "/ Keras", "", "error"]
    lines = [head]
    for row in measured:
        ratios, error = row["over keras"], row["error at a large mean"]
        lines.append(
            [
                *(row["shape"], row["design"], row["in turn with"]),
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                f"{error:.0e}",
            ]
        )
    print(tables.markdown(lines, right=3))
    measure.write(FLAGS.output, measured)


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 30, "turns of each", lower_bound=1)
    flags.DEFINE_integer("processes", 5, "for each company", lower_bound=1)
    flags.DEFINE_string(
        "output", "build/bench/small-inference.json", "file to write"
    )
    app.run(main)
