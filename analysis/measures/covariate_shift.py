# SPDX-License-Identifier: Apache-2.0
"""Internal covariate shift: as moments that move, and as gradients that turn.

Ioffe & Szegedy 2015 define it as the change of the distribution of a layer's
inputs while the layers below learn: `moment_drift`.

Santurkar, Tsipras, Ilyas & Madry 2018 (arXiv 1805.11604, Definition 2.1)
measure what that change means for learning. With G_i the gradient for the
weights of layer i, and G'_i that same gradient after the layers before i, and
only they, took their step, the shift is ||G_i - G'_i||, or the angle between
the two. By that measure networks with batch normalization shift no less than
those without.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.measures.moments import moments

Arrays = Sequence[NDArray[np.floating[Any]]]


class MomentDrift(NamedTuple):
    """Drift of moments, averaged over units.

    Attributes:
        mean: Average of `|mean_after - mean_before| / std_before`.
        std: Average of `|log(std_after / std_before)|`.
    """

    mean: float
    std: float


class GradientShift(NamedTuple):
    """How a layer's gradient changes with the layers before it.

    Attributes:
        distance: `||G - G'|| / ||G||`; `nan` for a gradient of 0.
        cosine: Of the angle between G and G'; `nan` if either is 0.
    """

    distance: float
    cosine: float


def moment_drift(before: ArrayLike, after: ArrayLike) -> MomentDrift:
    """How far the moments of the same examples have moved.

    Args:
        before: `[N, ..., units]`, a layer's inputs at one step.
        after: Likewise, at a later one.

    Returns:
        Means over the units that vary at both steps; `nan` if none does.
    """
    old = moments(before, per_unit=True)
    new = moments(after, per_unit=True)
    varies = (old.std > 0) & (new.std > 0)
    if not varies.any():
        return MomentDrift(math.nan, math.nan)
    std = old.std[varies]
    shift = np.abs(new.mean - old.mean)[varies] / std
    return MomentDrift(
        mean=float(shift.mean()),
        std=float(np.abs(np.log(new.std[varies] / std)).mean()),
    )


def gradient_shifts(
    gradient: Callable[[Arrays], Arrays],
    layers: Sequence[Sequence[int]],
    before: Arrays,
    after: Arrays,
    *,
    ahead: Sequence[Sequence[int]],
) -> list[GradientShift]:
    """The shift of each layer's gradient by one step of the layers before it.

    Args:
        gradient: Weights of the whole network -> gradients of the loss on one
            fixed batch, array by array.
        layers: Per layer, the indices of its own weights.
        before: Weights before the step.
        after: Weights after it.
        ahead: Per layer, the indices of the weights of layers before it.

    Returns:
        One per layer; the first layer's gradient does not shift, as no layer
        comes before it.
    """
    whole = gradient(before)
    shifts = []
    for own, earlier in zip(layers, ahead, strict=True):
        stepped = {*earlier} - {*own}
        mixed = [
            (after if i in stepped else before)[i] for i in range(len(before))
        ]
        moved = gradient(mixed)
        shifts.append(
            gradient_shift([whole[i] for i in own], [moved[i] for i in own])
        )
    return shifts


def gradient_shift(
    before: Sequence[ArrayLike], after: Sequence[ArrayLike]
) -> GradientShift:
    """Distance and angle between two gradients, array by array."""
    old, new = _flat(before), _flat(after)
    sizes = np.linalg.norm(old), np.linalg.norm(new)
    distance = float(np.linalg.norm(new - old))
    return GradientShift(
        distance=distance / float(sizes[0]) if sizes[0] else math.nan,
        cosine=float(old @ new / (sizes[0] * sizes[1]))
        if all(sizes)
        else math.nan,
    )


def _flat(arrays: Sequence[ArrayLike]) -> NDArray[np.float64]:
    return np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in arrays])
