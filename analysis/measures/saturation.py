# SPDX-License-Identifier: Apache-2.0
"""Units through which no gradient passes.

A value is saturated if the slope of the activation function at it is nearly 0;
a unit is dead if its values are saturated for every example. A sigmoid
saturates far from 0 on either side, a ReLU anywhere below 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

#: A slope below a hundredth counts as none.
FLAT = 0.01


class Saturation(NamedTuple):
    """Shares in `[0, 1]`.

    Attributes:
        saturated: Of all values.
        dead: Of the units.
    """

    saturated: float
    dead: float


def saturation(slopes: ArrayLike, *, flat: float = FLAT) -> Saturation:
    """Shares of saturated values and of dead units.

    Args:
        slopes: `[N, ..., units]`, derivatives of the activation function at
            each of its inputs.
        flat: Slopes of a smaller size count as none.
    """
    array = np.asarray(slopes)
    is_flat = np.abs(array.reshape(-1, array.shape[-1])) < flat
    return Saturation(
        saturated=float(is_flat.mean()),
        dead=float(is_flat.all(axis=0).mean()),
    )
