# SPDX-License-Identifier: Apache-2.0
"""Mean, standard deviation and skewness of what a layer's units see."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Moments(NamedTuple):
    """Moments over examples: scalars, or `[units]`, float64.

    Attributes:
        mean: In the unit of the values.
        std: Likewise; root of the biased (`1/m`) variance.
        skewness: Mean of `((x - mean) / std)^3`, 0 where `std` is 0.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    skewness: NDArray[np.float64]


def moments(values: ArrayLike, *, per_unit: bool = False) -> Moments:
    """Moments over examples, pooled over units or for each unit.

    Args:
        values: `[N, ..., units]`, any real dtype.
        per_unit: Whether each unit has moments of its own.

    Returns:
        Scalars, or `[units]` per unit.
    """
    array = np.asarray(values, np.float64)
    rows = array.reshape(-1, array.shape[-1] if per_unit else 1)
    # Relative to the first row, so that constant units stay exactly constant.
    offsets = rows - rows[0]
    shift = offsets.mean(axis=0)
    mean, centered = rows[0] + shift, offsets - shift
    std = np.sqrt(np.mean(centered**2, axis=0))
    scaled = np.divide(
        centered, std, out=np.zeros_like(centered), where=std > 0
    )
    skewness = np.mean(scaled * scaled**2, axis=0)
    if per_unit:
        return Moments(mean, std, skewness)
    return Moments(mean[0], std[0], skewness[0])
