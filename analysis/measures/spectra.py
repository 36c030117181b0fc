# SPDX-License-Identifier: Apache-2.0
"""Summaries of a set of singular values or eigenvalues."""

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Method = Literal["exact", "iterative", "lanczos"]
#: The ends of a spectrum that can be asked for.
Ends = Literal["largest", "smallest", "both"]


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Singular values of one Jacobian, or of one per example.

    The leading axes `...` are those of the examples: `[N]` for one Jacobian
    per example, none for a coupled one.

    Attributes:
        values: `[..., k]`, descending. With method `"lanczos"`, the nodes of
            a quadrature rule: the first is close to the largest singular
            value, the others only make sense with their weights.
        weights: `[..., k]`, the share of all singular values that each of
            `values` stands for; `None` if only some were computed.
        method: How they were found: `"exact"` (SVD of the matrix),
            `"iterative"` (some of them to rounding), `"lanczos"` (density).
        which: The part of the spectrum that `values` are.
        mean_square: `[...]`, mean of s^2 over all singular values.
        isometry_distance: `[...]`, root of the mean of (s^2 - 1)^2 over all
            singular values: 0 where the map keeps every length.
    """

    values: NDArray[Any]
    weights: NDArray[Any] | None
    method: Method
    which: Ends | Literal["all"]
    mean_square: NDArray[Any]
    isometry_distance: NDArray[Any]

    @property
    def condition_number(self) -> NDArray[Any]:
        """Largest over smallest, `[...]`; `inf` for a smallest of 0.

        Method `"lanczos"` underestimates it, because it approaches the ends
        of the spectrum from inside.

        Raises:
            ValueError: If `values` lack one end of the spectrum.
        """
        if self.which not in ("both", "all"):
            raise ValueError(
                "the condition number needs both ends of the spectrum. "
                f"Received: which={self.which}"
            )
        values, weights = self.values, self.weights
        if weights is None:
            return condition_number(values)
        # A node without weight is an artefact of rounding.
        smallest = np.min(
            values, axis=-1, where=weights > 1e-12, initial=np.inf
        )
        return condition_number(np.stack([values[..., 0], smallest], axis=-1))

    def quantiles(self, q: ArrayLike) -> NDArray[np.float64]:
        """Quantiles over all singular values of all examples.

        Args:
            q: Shares `[k]` in `[0, 1]`.

        Returns:
            `[k]`: the smallest values that at least a share `q` of the
            singular values does not exceed.

        Raises:
            ValueError: If only some of the values were computed.
        """
        if self.weights is None:
            raise ValueError(
                "quantiles need the whole spectrum. Received: "
                f"which={self.which}"
            )
        order = np.argsort(self.values, axis=None)
        share = np.cumsum(self.weights.ravel()[order], dtype=np.float64)
        # Rounding must not push the last share below 1.
        at = np.searchsorted(share / share[-1], np.asarray(q) * (1 - 1e-12))
        return np.asarray(self.values.ravel()[order][at], np.float64)


def exact(values: ArrayLike) -> Spectrum:
    """The spectrum whose singular values `[..., k]`, descending, are known."""
    array = np.asarray(values)
    return Spectrum(
        values=array,
        weights=np.full(array.shape, 1 / array.shape[-1]),
        method="exact",
        which="all",
        mean_square=np.mean(array**2, axis=-1),
        isometry_distance=np.sqrt(np.mean((array**2 - 1) ** 2, axis=-1)),
    )


def ends(spectrum: Spectrum, k: int, which: Ends) -> Spectrum:
    """Keeps the values at the ends of a whole spectrum only."""
    parts = {
        "largest": [spectrum.values[..., :k]],
        "smallest": [spectrum.values[..., -k:]],
        "both": [spectrum.values[..., :k], spectrum.values[..., -k:]],
    }[which]
    return dataclasses.replace(
        spectrum,
        values=np.concatenate(parts, axis=-1),
        weights=None,
        which=which,
    )


def condition_number(values: ArrayLike) -> NDArray[Any]:
    """Largest over smallest of `[..., k]`, descending; `inf` for a zero.

    A smallest value at the level of rounding (k machine epsilons of the
    largest) counts as zero.

    Returns:
        `[...]`; `nan` where all values are 0.
    """
    array = np.asarray(values)
    largest, smallest = array[..., 0], array[..., -1]
    rounding = array.shape[-1] * np.finfo(array.dtype).eps * largest
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(
            largest / np.where(smallest <= rounding, 0.0, smallest)
        )
