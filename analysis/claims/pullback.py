# SPDX-License-Identifier: Apache-2.0
"""Gradients as arrays, for claims about arithmetic."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import autodiff

Array = NDArray[np.float64]


def pull_back(
    function: Callable[..., Any], dy: Array, x: Array, *fixed: Array
) -> Array:
    """Gradient by x of `sum(dy * function(x, *fixed))`, float64."""
    inputs = map(autodiff.tensor, (x, *fixed))
    gradient = autodiff.Products(function).backward(dy, *inputs)
    return gradient.astype(np.float64)
