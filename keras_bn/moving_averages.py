# SPDX-License-Identifier: Apache-2.0
"""Update rules for the statistics that a layer uses at inference.

The paper (section 3.1) uses moving averages to track accuracy during training
and does not give their rate.
"""

from typing import Any

import keras

from keras_bn.backend import replicas, strategies, tensorflow as backend

Tensor = Any


def aggregation(*, synchronized: bool) -> str:
    """How replicas combine their values of a moving average created now.

    Synchronized replicas all hold the same value, so the first one's is taken;
    otherwise the mean is. A single replica needs no aggregation, and can then
    be part of a step that XLA compiles, which allows no collectives.

    Args:
        synchronized: Whether replicas normalize with common statistics.

    Returns:
        `aggregation` of `keras.Variable`.
    """
    if not strategies.several_replicas():
        return "none"
    return "only_first_replica" if synchronized else "mean"


def follow(
    moving: Any,
    value: Tensor,
    usable: Tensor,
    *,
    momentum: float,
    updates: Any = None,
) -> None:
    """Updates a moving average with a value, in place.

    Args:
        moving: The average so far, a Keras variable of the feature shape.
        value: The new value, of the feature shape.
        usable: Boolean, likewise: the features whose new value is usable. The
            others stay as they are.
        momentum: Weight of the OLD average, in `[0, 1]`, as in Keras
            (PyTorch's `momentum` is one minus this).
        updates: For `cumulative`, a Keras variable of the feature shape: how
            many values each feature has taken so far, incremented here.
            `None` for `momentum * old + (1 - momentum) * value`.
    """
    old = keras.ops.stop_gradient(moving.value)
    value = keras.ops.cast(value, old.dtype)
    if updates is not None:
        value, usable = replicas.mean_where(usable, value)
    value = backend.select(usable, value, old)
    if updates is not None:
        moving.assign(cumulative(old, value, updates=updates.value))
        updates.assign_add(keras.ops.cast(usable, updates.dtype))
    elif momentum < 0.5:
        # Start from the value with more weight; the other may be much larger.
        moving.assign(value + (old - value) * momentum)
    else:
        step = (old - value) * (1.0 - momentum)
        backend.subtract_in_place(moving, step)


def cumulative(moving: Tensor, value: Tensor, *, updates: Tensor) -> Tensor:
    """The plain mean over all values so far.

    Args:
        moving: The mean of the earlier values, any shape and floating dtype.
        value: The new value, same shape and dtype.
        updates: How many earlier values there are, same shape and dtype; at
            0 the mean is `value`, whatever `moving` is.
    """
    mean = moving + (value - moving) / (updates + 1.0)
    return keras.ops.where(updates > 0, mean, value)


def unbiased(variance: Tensor, count: Tensor | int) -> Tensor:
    """`m / (m - 1)` times the variance of m values, as in Algorithm 2.

    Args:
        variance: Biased, of the feature shape.
        count: Number of values behind it: a number, a scalar or of the feature
            shape. Of a single one it stays 0.
    """
    m = keras.ops.cast(count, variance.dtype)
    return variance * m / keras.ops.maximum(m - 1, 1)


def usable(variance: Tensor, count: Tensor | int, *, least: int = 1) -> Tensor:
    """Which features have statistics that a moving average may follow.

    Args:
        variance: Variance of a batch, of the feature shape. It is finite only
            if the mean is.
        count: Number of values behind it: a number if it is known, a scalar or
            of the feature shape if not.
        least: Values that the statistic needs: 2 for a variance, which is 0
            for a single value whatever the distribution.

    Returns:
        Boolean, of the feature shape: the variance is finite, and there are
        enough values.
    """
    finite = keras.ops.isfinite(variance)
    if isinstance(count, int) and count >= least:
        return finite
    return keras.ops.logical_and(finite, count >= least)
