# SPDX-License-Identifier: Apache-2.0
"""Arrays -> plain numbers, for the figures of claims."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean of numbers, in their own unit."""
    return float(np.mean(list(values)))


def largest(values: ArrayLike) -> float:
    """The largest absolute value of an array of any shape."""
    return float(np.abs(values).max())


def relative_error(values: ArrayLike, expected: ArrayLike) -> float:
    """The largest difference of two arrays over the second one's `largest`."""
    return largest(np.subtract(values, expected)) / largest(expected)
