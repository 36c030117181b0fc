# SPDX-License-Identifier: Apache-2.0
"""Mean and variance of many batches, pooled one after the other.

Two ways to pool them, each in one pass over the batches:

- `"paper"`: with mean and biased variance of each batch `B` of `m` values,

      E[x]   = mean_B(mean_B)
      Var[x] = mean_B(m / (m - 1) variance_B)

- `"exact"`: mean and biased variance (`1/n`) of all values of the pass, as if
  they were one batch (Wu & Johnson 2021, arXiv 2105.07576; merged as in Chan,
  Golub & LeVeque 1979):

      E[x]   = sum_B m_B mean_B / n,    n = sum_B m_B
      Var[x] = sum_B m_B (variance_B + (mean_B - E[x])^2) / n

Both are weighted means; `"paper"` gives every batch the weight 1. Only
`"exact"` adds the spread of the batches' means to the variance. All of it is
float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from keras_bn import masks, moving_averages

Tensor = Any

POOLINGS = ("paper", "exact")


class Statistics(NamedTuple):
    """Statistics, and how much stands behind them.

    Attributes:
        weight: Number of values, or of batches in a pool for `"paper"`; a
            scalar or of the feature shape.
        mean: `[*features]`.
        variance: `[*features]`.
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor


def of_batch(batch: Statistics, pooling: str) -> Statistics:
    """What a batch contributes to the pool.

    Args:
        batch: Its number of values, mean and biased variance.
        pooling: `"paper"` or `"exact"`.
    """
    if pooling == "exact":
        return batch
    count, mean, variance = batch
    # A single value says nothing about the variance.
    several = keras.ops.cast(count > 1, count.dtype)
    unbiased = moving_averages.unbiased(variance, count)
    return Statistics(several, mean, unbiased)


def merge(a: Statistics, b: Statistics, pooling: str) -> Statistics:
    """The statistics of the batches behind `a` and of those behind `b`."""
    weight = a.weight + b.weight
    share = b.weight / keras.ops.maximum(weight, 1)
    apart = b.mean - a.mean
    variance = a.variance + share * (b.variance - a.variance)
    if pooling == "exact":
        variance += share * (1 - share) * keras.ops.square(apart)
    return Statistics(weight, a.mean + share * apart, variance)


def of_values(
    x: Tensor, axes: Sequence[int], mask: Tensor | None
) -> Statistics:
    """Number, mean and biased variance of float64 values over some axes.

    By plain sums, which compile faster than those of training and are as exact
    in float64; no gradient is needed.
    """

    def total(values: Tensor) -> Tensor:
        if mask is not None:
            values = keras.ops.where(masks.expanded(mask), values, 0.0)
        return keras.ops.sum(values, axes, keepdims=True)

    count = total(keras.ops.ones_like(x))
    mean = total(x) / keras.ops.maximum(count, 1)
    squares = keras.ops.square(x - mean)
    variance = total(squares) / keras.ops.maximum(count, 1)
    return Statistics(
        *(keras.ops.squeeze(y, axes) for y in (count, mean, variance))
    )
