# SPDX-License-Identifier: Apache-2.0
"""A BN layer's affine map at inference (section 3.1 of the paper)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bn import checks, structure

Layer = Any  # keras.layers.Layer is untyped for mypy.
Array = NDArray[np.float64]


class Blocked(Exception):  # noqa: N818, a finding and no error
    """Why a map cannot be folded; the message says what is in the way."""


@dataclasses.dataclass(frozen=True)
class Affine:
    """`slope * x + shift` per feature.

    Attributes:
        rank: Rank of `x`.
        axes: The feature axes of `x`, ascending, in `[0, rank - 1]`.
        slope: `[*features]`.
        shift: `[*features]`.
    """

    rank: int
    axes: tuple[int, ...]
    slope: Array
    shift: Array

    @classmethod
    def of(cls, layer: Layer, rank: int) -> "Affine":
        """What a BN layer does at inference, its activation aside.

        `gamma / sqrt(Var[x] + epsilon) x + (beta - gamma E[x] / sqrt(...))`

        Raises:
            Blocked: If its variance is not positive.
        """

        def double(weight: Any) -> Array:
            return np.asarray(weight, np.float64)

        variance = double(layer.moving_variance) + layer.epsilon
        if not (variance > 0).all():
            raise Blocked("its variance is not positive")
        slope = 1.0 / np.sqrt(variance)
        gamma = structure.gamma(layer)
        if gamma is not None:
            slope = slope * double(gamma)
        shift = -double(layer.moving_mean) * slope
        if layer.beta is not None:
            shift = shift + double(layer.beta)
        axes = checks.canonical_axes(layer.axis, rank, name="axis")
        return cls(rank, axes, slope, shift)

    def equals(self, other: "Affine") -> bool:
        """Whether both are the same map."""
        return (
            self.axes == other.axes
            and np.array_equal(self.slope, other.slope)
            and np.array_equal(self.shift, other.shift)
        )

    def parts(self, axis: int, sizes: Sequence[int | None]) -> list["Affine"]:
        """The maps for the pieces into which `x` is cut along an axis.

        Args:
            axis: The axis, in `[0, rank - 1]`.
            sizes: Sizes of the pieces; may be `None` if it is no feature axis.
        """
        if axis not in self.axes:
            return [self] * len(sizes)
        at = self.axes.index(axis)
        ends = np.cumsum([size or 0 for size in sizes])[:-1]
        return [
            Affine(self.rank, self.axes, slope, shift)
            for slope, shift in zip(
                np.split(self.slope, ends, at),
                np.split(self.shift, ends, at),
                strict=True,
            )
        ]
