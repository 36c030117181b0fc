# SPDX-License-Identifier: Apache-2.0
"""The loss along its own gradient: how far ahead a step can see.

Santurkar, Tsipras, Ilyas & Madry 2018 (arXiv 1805.11604, section 3.2): from
weights W with gradient g, look at W - d g for several step sizes d. A small
range of losses and gradients that hardly change mean that the gradient stays a
good guide for larger steps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.measures import gradients

Arrays = Sequence[NDArray[np.floating[Any]]]


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Losses and gradients along the negative gradient.

    Attributes:
        loss: At W.
        losses: At W - d g for each step size d, `[k]`.
        gradient_changes: `||g(W - d g) - g(W)||`, `[k]`.
        smoothness: Effective beta-smoothness: the largest of
            `gradient_changes / ||d g||`; `nan` for a gradient of 0.
    """

    loss: float
    losses: NDArray[np.float64]
    gradient_changes: NDArray[np.float64]
    smoothness: float


def along_gradient(
    loss_and_gradient: Callable[[Arrays], tuple[float, Arrays]],
    weights: Arrays,
    distances: Sequence[float],
) -> Landscape:
    """Evaluates the loss along its negative gradient.

    Args:
        loss_and_gradient: Weights -> loss on one fixed batch, and its
            gradient, array by array.
        weights: The weights W to start from.
        distances: Step sizes, positive, such as multiples of the learning rate.

    Raises:
        ValueError: If there is no distance or one is not positive.
    """
    steps = np.asarray(distances, np.float64)
    if not steps.size or not np.all(steps > 0):
        raise ValueError(
            f"distances must be positive. Received: distances={distances}"
        )
    start, gradient = loss_and_gradient(weights)
    losses, changes = [], []
    for step in steps:
        moved = [
            w - (step * g).astype(w.dtype)
            for w, g in zip(weights, gradient, strict=True)
        ]
        loss, there = loss_and_gradient(moved)
        losses.append(loss)
        changes.append(
            gradients.norm(
                [
                    a.astype(np.float64) - b
                    for a, b in zip(there, gradient, strict=True)
                ]
            )
        )
    size = gradients.norm(gradient)
    return Landscape(
        loss=start,
        losses=np.array(losses),
        gradient_changes=np.array(changes),
        smoothness=float(np.max(changes / (steps * size))) if size else np.nan,
    )
