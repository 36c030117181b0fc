# SPDX-License-Identifier: Apache-2.0
"""Batch normalization in TensorFlow, with a backward pass written by hand.

Ioffe & Szegedy 2015 (arXiv 1502.03167), Algorithm 1. For one feature with the
`m` values `x_1 .. x_m` of a mini-batch:

    mean  = 1/m sum_i x_i
    var   = 1/m sum_i (x_i - mean)^2                  (biased)
    x_hat = (x - mean) / sqrt(var + epsilon)
    y     = gamma x_hat + beta

| symbol     | code             | shape   |
| ---------- | ---------------- | ------- |
| x - mean   | `centered`       | as `x`  |
| mean       | `batch_mean`     | feature |
| var        | `batch_variance` | feature |
| 1/sqrt(..) | `inv_std`        | feature |
| dl/dy      | `dy`             | as `x`  |
| dl/dmean   | `dmean`          | feature |
| dl/dvar    | `dvariance`      | feature |

This module imports nothing but TensorFlow and holds every use of
`tf.custom_gradient`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensor = Any  # tf.Tensor is untyped for mypy.


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    axes: Sequence[int],
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes with the batch's own statistics; see `keras_bn.ops`."""
    axes = tuple(axes)
    feature_shape = _feature_shape(x, axes)
    dtype = statistics_dtype(x)
    if gamma is None:
        gamma = tf.ones(feature_shape, dtype)
    if beta is None:
        beta = tf.zeros(feature_shape, dtype)
    # Plain tensors in (never variables), options by closure: graph mode would
    # turn keyword options into float32 tensors.
    normalize = _normalize_with_gradient(axes, epsilon)
    return normalize(
        tf.convert_to_tensor(x), tf.cast(gamma, dtype), tf.cast(beta, dtype)
    )


# The backward pass, derived.
#
# Let c_i = x_i - mean and s = inv_std, so y_i = gamma s c_i + beta. The loss
# reaches x through y and, where the statistics themselves are used, through
# mean and var, whose cotangents are dmean and dvariance. The paper's chain is
#
#   dl/dx_hat_i = dy_i gamma
#   dl/dvar     = sum_i dl/dx_hat_i c_i (-1/2) s^3           + dvariance
#   dl/dmean    = -s sum_i dl/dx_hat_i + dl/dvar (-2/m) sum_i c_i + dmean
#   dl/dx_i     = dl/dx_hat_i s + dl/dvar 2 c_i / m + dl/dmean / m
#
# With sum_i c_i = 0 and the two sums that gamma and beta need anyway,
#
#   dbeta = sum_i dy_i            dgamma = s sum_i dy_i c_i
#
# it becomes affine in dy_i and c_i, with three coefficients per feature:
#
#   dx_i = (gamma s) dy_i
#        + ((2 dvariance - gamma s^2 dgamma) / m) c_i
#        + (dmean - gamma s dbeta) / m
#
# exact for every epsilon. Everything below is plain TensorFlow and nothing is
# cut off, so TensorFlow differentiates this function again for second order.
def _normalize_with_gradient(
    axes: tuple[int, ...], epsilon: float
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    @tf.custom_gradient
    def normalize(
        x: Tensor, gamma: Tensor, beta: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Callable[..., Any]]:
        centered, batch_mean, batch_variance = _moments(x, axes)
        inv_std = _inverse_std(batch_variance, epsilon)
        expand = _expander(x, axes)
        y = centered * expand(gamma * inv_std) + expand(beta)

        def backward(
            dy: Tensor, dmean: Tensor, dvariance: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            dy = tf.cast(dy, centered.dtype)
            m = _count(x, axes)
            dbeta = _sum(dy, axes)
            dgamma = inv_std * _sum(dy * centered, axes)
            slope = gamma * inv_std
            on_centered = (2.0 * dvariance - slope * inv_std * dgamma) / m
            constant = (dmean - slope * dbeta) / m
            dx = (
                dy * expand(slope)
                + centered * expand(on_centered)
                + expand(constant)
            )
            return tf.cast(dx, x.dtype), dgamma, dbeta

        return (tf.cast(y, x.dtype), batch_mean, batch_variance), backward

    return normalize


def apply_statistics(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    axes: Sequence[int],
    epsilon: float,
) -> Tensor:
    """Normalizes with given statistics; see `keras_bn.ops`.

    Without batch statistics the map is affine and TensorFlow's own gradient
    is the paper's.
    """
    dtype = statistics_dtype(x)
    expand = _expander(x, tuple(axes))
    slope = _inverse_std(tf.cast(variance, dtype), epsilon)
    if gamma is not None:
        slope = slope * tf.cast(gamma, dtype)
    # (x - mean) * slope keeps the digits that x * slope - mean * slope loses.
    y = (tf.cast(x, dtype) - expand(tf.cast(mean, dtype))) * expand(slope)
    if beta is not None:
        y = y + expand(tf.cast(beta, dtype))
    return tf.cast(y, x.dtype)


def statistics_dtype(x: Tensor) -> Any:
    """float64 for float64, float32 for everything narrower."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _moments(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Centered values, mean and biased variance, corrected once.

    A float32 mean is off by its accumulation error, which grows with
    |mean| times the number of values. The centered values are small, so
    their own mean is accurate and takes that error out again.
    """
    x = tf.cast(x, statistics_dtype(x))
    expand = _expander(x, axes)
    m = _count(x, axes)
    first_mean = _sum(x, axes) / m
    centered = x - expand(first_mean)
    correction = _sum(centered, axes) / m
    centered = centered - expand(correction)
    variance = _sum(tf.square(centered), axes) / m
    return centered, first_mean + correction, variance


def _sum(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Sums over `axes` in two stages, last axes first.

    TensorFlow's CPU kernel adds up values one after the other when it reduces
    several leading axes at once; partial sums keep the rounding error small.
    """
    batch, rest = axes[:1], axes[1:]
    partial = tf.reduce_sum(x, axis=rest, keepdims=True) if rest else x
    return tf.squeeze(tf.reduce_sum(partial, axis=batch, keepdims=True), axes)


def _count(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Number of values behind each statistic, at least 1, as a scalar."""
    shape = tf.shape(x)
    count = tf.reduce_prod(tf.gather(shape, axes))
    return tf.cast(tf.maximum(count, 1), statistics_dtype(x))


def _inverse_std(variance: Tensor, epsilon: float) -> Tensor:
    # tf.constant, as a cast would send epsilon through float32.
    return tf.math.rsqrt(variance + tf.constant(epsilon, variance.dtype))


def _feature_axes(rank: int, axes: tuple[int, ...]) -> list[int]:
    return [axis for axis in range(rank) if axis not in axes]


def _feature_shape(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return tf.gather(tf.shape(x), _feature_axes(len(x.shape), axes))


def _expander(x: Tensor, axes: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Returns a function that makes a feature vector broadcast against `x`."""
    if axes == tuple(range(len(x.shape) - 1)):
        return lambda values: values

    def expand(values: Tensor) -> Tensor:
        for axis in axes:
            values = tf.expand_dims(values, axis)
        return values

    return expand
