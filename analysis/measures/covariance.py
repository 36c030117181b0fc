# SPDX-License-Identifier: Apache-2.0
"""Covariance of a layer's inputs: how far they are from white.

Section 2 of Ioffe & Szegedy 2015 starts from full whitening (covariance I) and
settles for normalizing each dimension by itself, which leaves the correlations
as they are. The eigenvalues of the covariance matrix say what is left.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def covariance_spectrum(
    values: ArrayLike, *, correlation: bool = False
) -> NDArray[np.float64]:
    """Eigenvalues of the biased (`1/m`) covariance matrix of the units.

    Args:
        values: `[N, ..., units]`, any real dtype; positions count as further
            examples.
        correlation: Whether to divide each unit by its standard deviation
            first, as normalizing each unit by itself would. Units that do not
            vary become 0.

    Returns:
        `[units]`, descending, in the squared unit of `values`.

    Raises:
        ValueError: If `values` is empty or has less than two axes.
    """
    array = np.asarray(values, np.float64)
    if array.ndim < 2 or not array.size:
        raise ValueError(
            "values must have shape [N, ..., units] and not be empty. "
            f"Received: shape={array.shape}"
        )
    rows = array.reshape(-1, array.shape[-1])
    # Relative to the first row, so that constant units stay exactly constant.
    rows = rows - rows[0]
    rows -= rows.mean(axis=0)
    if correlation:
        std = np.sqrt(np.mean(rows**2, axis=0))
        rows = np.divide(rows, std, out=np.zeros_like(rows), where=std > 0)
    count, units = rows.shape
    # Both products have the same eigenvalues apart from zeros.
    gram = rows.T @ rows if units <= count else rows @ rows.T
    eigenvalues = np.zeros(units)
    found = np.linalg.eigvalsh(gram / count)[::-1]
    eigenvalues[: len(found)] = np.maximum(found, 0)
    return eigenvalues


def whitening_distance(eigenvalues: ArrayLike) -> float:
    """Root of the mean of `(eigenvalue - 1)^2`: 0 for white inputs.

    It is the Frobenius norm of (covariance - I) over the root of the number of
    units.
    """
    return float(np.sqrt(np.mean((np.asarray(eigenvalues) - 1) ** 2)))


def directions(eigenvalues: ArrayLike, *, share: float = 0.99) -> float:
    """Share of the principal directions that hold most of the variance.

    Known as saturation (Shenk, Richter, Arpteg & Huss 2020, arXiv 2006.08679):
    near 1 for a layer whose input uses its whole width.

    Args:
        eigenvalues: `[units]`, descending.
        share: Share of the variance to hold, in `(0, 1]`.

    Returns:
        The smallest number of leading directions that hold it, over the number
        of all directions; 0 if nothing varies.
    """
    array = np.asarray(eigenvalues, np.float64)
    held = np.cumsum(array)
    if held[-1] <= 0:
        return 0.0
    # Rounding must not raise the threshold above the total.
    reached = held >= share * held[-1] * (1 - 1e-12)
    return float((1 + np.argmax(reached)) / len(array))
