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
| mean       | `batch_mean`     | feature |
| var        | `batch_variance` | feature |
| 1/sqrt(..) | `inv_std`        | feature |
| x - mean   | `shifted - rest` | as `x`  |
| m          | `count`          | feature |
| dl/dy      | `dy`             | as `x`  |
| dl/dmean   | `dmean`          | feature |
| dl/dvar    | `dvariance`      | feature |

This module imports nothing but TensorFlow and holds every use of
`tf.custom_gradient`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensor = Any  # tf.Tensor is untyped for mypy.

#: Rows that are added up one after the other; partial sums beyond that.
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class _Values:
    """Which values of a tensor make up the statistics of a feature.

    Attributes:
        axes: The axes summed over, ascending.
        mask: Boolean, broadcastable to the tensor; `None` takes all values.
        synchronized: Whether the values of all replicas count.
    """

    axes: tuple[int, ...]
    mask: Tensor | None
    synchronized: bool

    def counted(self, x: Tensor) -> Tensor:
        """`x` with 0 where the mask leaves values out, whatever they are."""
        if self.mask is None:
            return x
        return tf.where(self.mask, x, tf.zeros([], x.dtype))

    def expand(self, feature: Tensor) -> Tensor:
        """Makes a feature-shaped tensor broadcast against `x`."""
        if self.axes[0] == 0 and self.axes[-1] == len(self.axes) - 1:
            return feature
        for axis in self.axes:
            feature = tf.expand_dims(feature, axis)
        return feature

    def count(self, x: Tensor) -> Tensor:
        """How many values this replica has, as a scalar or per feature."""
        if self.mask is not None:
            ones = tf.cast(tf.broadcast_to(self.mask, tf.shape(x)), x.dtype)
            return _sum(ones, self.axes)
        count = tf.reduce_prod(tf.gather(tf.shape(x), self.axes))
        return tf.cast(count, x.dtype)

    def total(self, *tensors: Tensor) -> list[Tensor]:
        """Sums over all replicas if synchronized, in one collective."""
        context = tf.distribute.get_replica_context()
        if not self.synchronized or context is None:
            return list(tensors)
        if context.num_replicas_in_sync == 1:
            return list(tensors)
        packed = tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)
        packed = context.all_reduce(tf.distribute.ReduceOp.SUM, packed)
        parts = tf.split(packed, [tf.size(t) for t in tensors])
        return [
            tf.reshape(part, tf.shape(t))
            for part, t in zip(parts, tensors, strict=True)
        ]


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    axes: Sequence[int],
    epsilon: float,
    mask: Tensor | None = None,
    synchronized: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalizes with the batch's own statistics; see `keras_bn.ops`.

    Returns:
        `(y, batch_mean, batch_variance, count)`; the count has the dtype of
        the statistics and the feature shape, or none at all.
    """
    x = tf.convert_to_tensor(x)
    dtype = statistics_dtype(x)
    values = _Values(tuple(axes), mask, synchronized)
    features = [a for a in range(len(x.shape)) if a not in values.axes]
    shape = tf.gather(tf.shape(x), features)
    gamma = tf.ones([], dtype) if gamma is None else tf.cast(gamma, dtype)
    beta = tf.zeros([], dtype) if beta is None else tf.cast(beta, dtype)
    # Plain tensors in (never variables), options by closure: graph mode would
    # turn keyword options into float32 tensors.
    normalize = _normalize_with_gradient(values, epsilon)
    return normalize(
        x, tf.broadcast_to(gamma, shape), tf.broadcast_to(beta, shape)
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
# exact for every epsilon. A value that a mask leaves out is normalized too but
# has no part in mean and var: its dx_i is the first term alone, and the sums
# over dy still run over all values. With several replicas the sums, dmean and
# dvariance are those of all replicas, but each returns its own share of
# dgamma and dbeta, which the optimizer adds up.
#
# Everything below is plain TensorFlow and nothing is cut off, so TensorFlow
# differentiates this function again for second order.
def _normalize_with_gradient(
    values: _Values, epsilon: float
) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    expand = values.expand

    @tf.custom_gradient
    def normalize(
        x: Tensor, gamma: Tensor, beta: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Callable[..., Any]]:
        shifted, shift, rest, batch_variance, count = _moments(x, values)
        inv_std = _inverse_std(batch_variance, epsilon)
        slope = gamma * inv_std
        # x - mean = shifted - rest, and the second term is per feature.
        y = shifted * expand(slope) + expand(beta - rest * slope)

        def backward(
            dy: Tensor, dmean: Tensor, dvariance: Tensor, _: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            dy = tf.cast(dy, shifted.dtype)
            dbeta = _sum(dy, values.axes)
            dgamma = inv_std * (_sum(dy * shifted, values.axes) - rest * dbeta)
            all_dgamma, all_dbeta, dmean, dvariance = values.total(
                dgamma, dbeta, dmean, dvariance
            )
            m = tf.maximum(count, 1.0)
            on_centered = (2.0 * dvariance - slope * inv_std * all_dgamma) / m
            constant = (dmean - slope * all_dbeta) / m - rest * on_centered
            dx = dy * expand(slope) + values.counted(
                shifted * expand(on_centered) + expand(constant)
            )
            return tf.cast(dx, x.dtype), dgamma, dbeta

        outputs = tf.cast(y, x.dtype), shift + rest, batch_variance, count
        return outputs, backward

    return normalize


def _moments(
    x: Tensor, values: _Values
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Statistics that stay exact where |mean| is large beside the deviation.

    A float32 sum is off by its rounding, which grows with |mean| times the
    number of values. What remains after taking that first mean off is small,
    so its own mean, `rest`, is accurate: mean = `shift + rest`, and
    var = mean of shifted^2 - rest^2 loses nothing, `rest` being small.

    Returns:
        `x - shift`, `shift`, `rest`, the biased variance, the count.
    """
    x = tf.cast(x, statistics_dtype(x))
    total, count = values.total(
        _sum(values.counted(x), values.axes), values.count(x)
    )
    m = tf.maximum(count, 1.0)
    shift = total / m
    shifted = x - values.expand(shift)
    counted = values.counted(shifted)
    total, total_square = values.total(
        _sum(counted, values.axes), _sum(tf.square(counted), values.axes)
    )
    rest = total / m
    variance = tf.maximum(total_square / m - tf.square(rest), 0.0)
    return shifted, shift, rest, variance, count


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
    expand = _Values(tuple(axes), None, False).expand
    slope = _inverse_std(tf.cast(variance, dtype), epsilon)
    if gamma is not None:
        slope = slope * tf.cast(gamma, dtype)
    # (x - mean) * slope keeps the digits that x * slope - mean * slope loses.
    y = (tf.cast(x, dtype) - expand(tf.cast(mean, dtype))) * expand(slope)
    if beta is not None:
        y = y + expand(tf.cast(beta, dtype))
    return tf.cast(y, x.dtype)


def scale_and_shift(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    *,
    axes: Sequence[int],
) -> Tensor:
    """`scale * x + shift` per feature; see `keras_bn.ops`."""
    dtype = statistics_dtype(x)
    expand = _Values(tuple(axes), None, False).expand
    y = tf.cast(x, dtype)
    if scale is not None:
        y = y * expand(tf.cast(scale, dtype))
    if shift is not None:
        y = y + expand(tf.cast(shift, dtype))
    return tf.cast(y, x.dtype)


def require_several_values(count: Tensor) -> None:
    """Fails where a feature has a single value, unless XLA compiles it."""
    tf.debugging.assert_none_equal(
        count,
        tf.ones([], count.dtype),
        message=(
            "batch normalization needs more than one value per feature in "
            "training: the variance of a single value is 0"
        ),
    )


def statistics_dtype(x: Tensor) -> Any:
    """float64 for float64, float32 for everything narrower."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _sum(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Sums over `axes` in stages, so that rounding errors stay small.

    TensorFlow's CPU kernel adds values up one after the other when it reduces
    several leading axes at once, or one long one.
    """
    first, others = axes[0], axes[1:]
    if others:
        x = tf.reduce_sum(x, axis=others, keepdims=True)
    size = x.shape[first]
    if first == 0 and (size is None or size > _BLOCK):
        rows = tf.shape(x)[0]
        blocks = rows // _BLOCK
        tail = x[blocks * _BLOCK :]
        shape = tf.concat([[blocks, _BLOCK], tf.shape(x)[1:]], 0)
        in_blocks = tf.reshape(x[: blocks * _BLOCK], shape)
        total = tf.reduce_sum(tf.reduce_sum(in_blocks, axis=1), axis=0)
        total += tf.reduce_sum(tail, axis=0)
        return tf.squeeze(total, [axis - 1 for axis in others])
    return tf.squeeze(tf.reduce_sum(x, axis=first, keepdims=True), axes)


def _inverse_std(variance: Tensor, epsilon: float) -> Tensor:
    # tf.constant, as a cast would send epsilon through float32.
    return tf.math.rsqrt(variance + tf.constant(epsilon, variance.dtype))
