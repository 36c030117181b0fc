# SPDX-License-Identifier: Apache-2.0
"""Sizes of gradients and weights, and of what a step changes.

Section 3.3 of Ioffe & Szegedy 2015: with normalization, larger weights lead to
smaller gradients, so that their growth slows down by itself.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def norm(arrays: Sequence[ArrayLike]) -> float:
    """Root of the sum of squares of all entries of all arrays."""
    return math.sqrt(
        sum(float(np.sum(np.asarray(a, np.float64) ** 2)) for a in arrays)
    )


def update_ratio(
    before: Sequence[ArrayLike], after: Sequence[ArrayLike]
) -> float:
    """Norm of a step's change over the norm of the weights before it.

    Around 1e-3 is healthy for many networks: with far smaller values the layer
    hardly learns, with far larger ones training is unstable.

    Returns:
        `inf` if weights of norm 0 changed, 0 if nothing did.
    """
    change = norm(
        [
            np.asarray(a, np.float64) - np.asarray(b, np.float64)
            for a, b in zip(after, before, strict=True)
        ]
    )
    return _ratio(change, norm(before))


def growth(start: Sequence[ArrayLike], now: Sequence[ArrayLike]) -> float:
    """Norm of the weights over their norm at the start.

    Returns:
        `inf` for weights that started from 0 and left it.
    """
    return _ratio(norm(now), norm(start))


def _ratio(numerator: float, denominator: float) -> float:
    if denominator:
        return numerator / denominator
    return math.inf if numerator else 0.0
