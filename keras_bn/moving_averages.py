# SPDX-License-Identifier: Apache-2.0
"""Update rules for the statistics that a layer uses at inference.

The paper (section 3.1) follows accuracy during training with moving averages
and leaves their rate open; `exponential` is the rule that Keras uses.
"""

from typing import Any

import keras

Tensor = Any


def exponential(moving: Tensor, value: Tensor, *, momentum: float) -> Tensor:
    """What a step takes off an exponential moving average.

    It leaves `momentum * moving + (1 - momentum) * value`; 0 for a value equal
    to the average.

    Args:
        moving: The average so far, any shape and floating dtype.
        value: The new value, same shape and dtype.
        momentum: Weight of the OLD average, in `[0, 1]`, as in Keras
            (PyTorch's `momentum` is one minus this).

    Returns:
        The old average minus the new one.
    """
    return (moving - value) * (1.0 - momentum)


def cumulative(moving: Tensor, value: Tensor, *, updates: Tensor) -> Tensor:
    """What a step takes off a plain mean over all values so far.

    Args:
        moving: The mean of the earlier values, any shape and floating dtype.
        value: The new value, same shape and dtype.
        updates: How many earlier values there are, same shape and dtype; at
            0 the mean starts from `value`, whatever `moving` is.

    Returns:
        The old mean minus the new one.
    """
    return (moving - value) / (updates + 1.0)


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
