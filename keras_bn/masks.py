# SPDX-License-Identifier: Apache-2.0
"""Masks as in Keras: over all axes of a tensor except the last."""

from typing import Any

import keras

Tensor = Any


def require_aligned(mask: Tensor, inputs: Tensor) -> None:
    """Raises `ValueError` unless it is a mask of all axes but the last."""
    if getattr(mask.shape, "rank", 0) is None:
        return  # The rank is known only when the graph runs.
    if len(mask.shape) != len(inputs.shape) - 1:
        raise ValueError(
            "mask must have one axis less than the input. Received: "
            f"mask.shape={tuple(mask.shape)}, "
            f"inputs.shape={tuple(inputs.shape)}"
        )
    for size, whole in zip(mask.shape, inputs.shape, strict=False):
        if None not in (size, whole) and size not in (1, whole):
            raise ValueError(
                "mask must broadcast to the input without its last axis. "
                f"Received: mask.shape={tuple(mask.shape)}, "
                f"inputs.shape={tuple(inputs.shape)}"
            )


def expanded(mask: Tensor | None) -> Tensor | None:
    """Keras' mask, which lacks the last axis, as one that broadcasts."""
    if mask is None:
        return None
    return keras.ops.cast(keras.ops.expand_dims(mask, -1), "bool")
