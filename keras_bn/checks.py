# SPDX-License-Identifier: Apache-2.0
"""Checks of what is to be normalized, along which axes, and with what."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_bn.arguments import integers, real

Tensor = Any


def canonical_axes(
    axes: int | Sequence[int], rank: int, *, name: str
) -> tuple[int, ...]:
    """Sorted, non-negative axes.

    Args:
        axes: One axis or several, each in `[-rank, rank - 1]`.
        rank: Rank of the tensor they index.
        name: Name of the argument, for the error message.

    Returns:
        The same axes, ascending, in `[0, rank - 1]`.

    Raises:
        ValueError: If there is none, one is out of range, or two are equal.
    """
    checked = integers(name, axes)
    given = (checked,) if isinstance(checked, int) else checked
    if not given:
        raise ValueError(f"{name} must name at least one axis. Received: ()")
    for axis in given:
        if not -rank <= axis < rank:
            raise ValueError(
                f"{name} must lie in [{-rank}, {rank - 1}] for an input of "
                f"rank {rank}. Received: {name}={axes}"
            )
    canonical = tuple(sorted(axis % rank for axis in given))
    if len(set(canonical)) != len(canonical):
        raise ValueError(
            f"{name} must name different axes. Received: {name}={axes} for an "
            f"input of rank {rank}"
        )
    return canonical


def checked_epsilon(epsilon: float) -> float:
    """`epsilon` as a float; raises `ValueError` if negative or not finite."""
    value = real("epsilon", epsilon)
    if not 0.0 <= value < float("inf"):
        raise ValueError(
            f"epsilon must be finite and >= 0. Received: epsilon={epsilon}"
        )
    return value


def floating(x: Tensor) -> Tensor:
    """`x` as a dense floating point tensor; raises `ValueError` otherwise."""
    require_dense(x)
    x = keras.ops.convert_to_tensor(x)
    require_floating(x)
    return x


def require_dense(x: Tensor) -> None:
    """Raises `ValueError` for a ragged tensor."""
    if hasattr(x, "nested_row_splits"):
        raise ValueError(
            "x must be dense: give x.to_tensor(), and as the mask "
            "tf.sequence_mask(x.row_lengths()). Received: a RaggedTensor of "
            f"shape {tuple(x.shape)}"
        )


def require_floating(x: Tensor) -> None:
    """Raises `ValueError` for integers and booleans."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    if "float" not in dtype:
        raise ValueError(
            "x must be of a floating point dtype, as of "
            'keras.ops.cast(x, "float32"). Received: '
            f"dtype={dtype}"
        )


def require_broadcastable(x: Tensor, mask: Tensor | None) -> None:
    """Raises `ValueError` for a mask that does not broadcast to `x`."""
    unknown = getattr(getattr(mask, "shape", None), "rank", 0) is None
    if mask is None or unknown:
        return
    shape = tuple(np.shape(mask))
    last = tuple(x.shape)[len(x.shape) - len(shape) :]
    if len(shape) > len(x.shape) or any(
        None not in (size, whole) and size not in (1, whole)
        for size, whole in zip(shape, last, strict=True)
    ):
        raise ValueError(
            f"mask must broadcast to the shape of x, {tuple(x.shape)}. "
            f"Received: mask.shape={shape}"
        )


def require_feature_shape(
    x: Tensor, axes: int | Sequence[int], **parameters: Tensor | None
) -> None:
    """Raises `ValueError` unless all parameters have the feature shape."""
    axes = canonical_axes(axes, len(x.shape), name="axes")
    features = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    for name, parameter in parameters.items():
        if parameter is None:
            continue
        shape = tuple(np.shape(parameter))  # of tensors and variables too
        if len(shape) != len(features) or any(
            None not in (size, wanted) and size != wanted
            for size, wanted in zip(shape, features, strict=True)
        ):
            raise ValueError(
                f"{name} must have the shape of x without axes {axes}, "
                f"{features}. Received: {name}.shape={shape}"
            )
