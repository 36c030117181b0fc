# SPDX-License-Identifier: Apache-2.0
"""Update rules for the statistics that a layer uses at inference.

The paper (section 3.1) follows accuracy during training with moving averages
and leaves their rate open; `exponential` is the rule that Keras uses.
"""

from typing import Any

import keras

Tensor = Any


def exponential(moving: Tensor, value: Tensor, *, momentum: float) -> Tensor:
    """One step of an exponential moving average.

    `momentum * moving + (1 - momentum) * value`, written so that a value equal
    to the average leaves it exactly where it is.

    Args:
        moving: The average so far, any shape and floating dtype.
        value: The new value, same shape and dtype.
        momentum: Weight of the OLD average, in `[0, 1]`, as in Keras
            (PyTorch's `momentum` is one minus this).

    Returns:
        The new average.
    """
    return moving - (moving - value) * (1.0 - momentum)


def cumulative(moving: Tensor, value: Tensor, *, updates: Tensor) -> Tensor:
    """One step of a plain mean over all values so far.

    Args:
        moving: The mean of the earlier values, any shape and floating dtype.
        value: The new value, same shape and dtype.
        updates: How many earlier values there are, same shape and dtype; at
            0 the mean starts from `value`, whatever `moving` is.

    Returns:
        The new mean.
    """
    return moving + (value - moving) / (updates + 1.0)


def usable(
    mean: Tensor, variance: Tensor, count: Tensor, *, least: int = 1
) -> Tensor:
    """Which features have statistics that a moving average may follow.

    Args:
        mean: Mean of a batch, of the feature shape.
        variance: Variance or standard deviation of the batch, likewise.
        count: Number of values behind it, a scalar or of the feature shape.
        least: Values that the statistic needs: 2 for a variance, which is 0
            for a single value whatever the distribution.

    Returns:
        Boolean, of the feature shape: the second moment is finite, and there
        are enough values.
    """
    second_moment = variance + keras.ops.square(mean)
    finite = keras.ops.isfinite(second_moment)
    return keras.ops.logical_and(finite, count >= least)
