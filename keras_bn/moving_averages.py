# SPDX-License-Identifier: Apache-2.0
"""Update rules for the statistics that a layer uses at inference.

The paper (section 3.1) follows accuracy during training with moving averages
and leaves their rate open; the rule here is the one Keras uses.
"""

from typing import Any

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
