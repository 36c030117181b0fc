# SPDX-License-Identifier: Apache-2.0
"""Batch normalization as functions that check arguments and call the backend.

Ioffe & Szegedy 2015 (arXiv 1502.03167), Algorithm 1 with its gradients; the
equations are in `keras_bn.backend.algorithm1`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras

from keras_bn.arguments import one_of
from keras_bn.backend import activations, compiling, tensorflow as backend
from keras_bn.checks import (
    canonical_axes,
    checked_epsilon,
    floating,
    require_broadcastable,
    require_feature_shape,
)

#: What is meant for users; the rest is what the layer shares with it.
__all__ = [
    "apply_statistics",
    "batch_norm",
    "fused_activations",
    "scale_and_shift",
    "without_compiling",
]

Tensor = Any


def batch_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    axes: int | Sequence[int],
    epsilon: float = 1e-3,
    mask: Tensor | None = None,
    synchronized: bool = False,
    activation: str = "linear",
    keeps: str = "input",
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes each feature with the statistics of this batch.

    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, differentiable
    in `x`, `gamma` and `beta` by a hand-written backward pass, to any order.
    The returned statistics are differentiable too.

    Statistics and arithmetic are float32 for float16 and bfloat16 inputs,
    otherwise the dtype of `x`.

    Args:
        x: Floating point tensor of rank 1 or more.
        gamma: Scale, of the feature shape (the shape of `x` without `axes`);
            `None` means 1.
        beta: Shift, of the feature shape; `None` means 0.
        axes: The axes that the statistics are taken over: `0` for dense
            features `[N, C]`, `(0, 1, 2)` for feature maps `[N, H, W, C]`.
        epsilon: Added to the variance; 0 or more.
        mask: Boolean, broadcastable to `x`: the values that enter the
            statistics. All values are normalized.
        synchronized: Whether the statistics are those of all replicas of a
            `tf.distribute` strategy.
        activation: Applied to the result as part of the same operation; one
            of `fused_activations()`.
        keeps: Which tensor the backward pass starts from, `"input"` or
            `"output"`. With `"output"` the input can be freed once the result
            is computed (arXiv 1712.02616), the activation must have an
            inverse, and a gamma within 1e-3 of 0 is replaced by 1e-3 with its
            sign.

    Returns:
        `(y, batch_mean, batch_variance)`: `y` with the shape and dtype of
        `x`, and the two statistics of the feature shape. The variance is
        biased (`1/m`).

    Raises:
        ValueError: If `axes` is empty, repeated or out of range, `epsilon` is
            negative, `x` is not floating point or is ragged, `gamma` or `beta`
            has another shape, `mask` does not broadcast to `x`, or `activation`
            is unknown, or has no inverse although `keeps` is `"output"`.
    """
    x = floating(x)
    require_feature_shape(x, axes, gamma=gamma, beta=beta)
    require_broadcastable(x, mask)
    y, mean, variance, _ = counted_batch_norm(
        x,
        gamma,
        beta,
        axes=axes,
        epsilon=epsilon,
        mask=mask,
        synchronized=synchronized,
        activation=activation,
        keeps=keeps,
    )
    return y, mean, variance


def counted_batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    axes: int | Sequence[int],
    epsilon: float,
    mask: Tensor | None = None,
    synchronized: bool = False,
    activation: str = "linear",
    keeps: str = "input",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`batch_norm`, with the number of values behind each statistic.

    Returns:
        `(y, batch_mean, batch_variance, count)`; the count is a Python number
        if known in advance, otherwise a tensor: of the feature shape with a
        mask, else a scalar. Where the count is 0, mean and variance are 0.
    """
    x = floating(x)
    axes = canonical_axes(axes, len(x.shape), name="axes")
    if mask is not None:
        mask = keras.ops.cast(mask, "bool")
    return backend.batch_norm(
        x,
        gamma,
        beta,
        axes=axes,
        epsilon=checked_epsilon(epsilon),
        mask=mask,
        synchronized=synchronized,
        activation=checked_activation(activation, keeps=keeps),
        keeps=keeps,
    )


def apply_statistics(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    axes: int | Sequence[int],
    epsilon: float = 1e-3,
    activation: str = "linear",
) -> Tensor:
    """Normalizes each feature with given statistics, as at inference.

    Args:
        x: Floating point tensor of rank 1 or more.
        mean: Mean, of the feature shape.
        variance: Variance, of the feature shape.
        gamma: Scale, of the feature shape; `None` means 1.
        beta: Shift, of the feature shape; `None` means 0.
        axes: The axes of `x` that are not features, as in `batch_norm`.
        epsilon: Added to the variance; 0 or more.
        activation: As in `batch_norm`.

    Returns:
        A tensor with the shape and dtype of `x`.

    Raises:
        ValueError: As `batch_norm`.
    """
    x = floating(x)
    require_feature_shape(
        x, axes, mean=mean, variance=variance, gamma=gamma, beta=beta
    )
    axes = canonical_axes(axes, len(x.shape), name="axes")
    return backend.apply_statistics(
        x,
        mean,
        variance,
        gamma,
        beta,
        axes=axes,
        epsilon=checked_epsilon(epsilon),
        activation=checked_activation(activation, keeps="input"),
    )


def scale_and_shift(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    *,
    axes: int | Sequence[int],
) -> Tensor:
    """`scale * x + shift` per feature.

    Args:
        x: Floating point tensor of rank 1 or more.
        scale: Of the feature shape; `None` means 1.
        shift: Of the feature shape; `None` means 0.
        axes: The axes of `x` that are not features, as in `batch_norm`.

    Returns:
        A tensor with the shape and dtype of `x`.

    Raises:
        ValueError: If `axes` or `x` are as `batch_norm` refuses them, or
            `scale` or `shift` has another shape.
    """
    x = floating(x)
    require_feature_shape(x, axes, scale=scale, shift=shift)
    axes = canonical_axes(axes, len(x.shape), name="axes")
    return backend.scale_and_shift(x, scale, shift, axes=axes)


def without_compiling() -> AbstractContextManager[None]:
    """Within the context, batch normalization runs plain operations only.

    Use it for code that sees each shape only a few times, such as `fit` on
    batches that all differ in size, or that is exported with fixed sizes: XLA
    is up to three times as fast on large tensors, but takes half a second or
    more to compile each shape.
    """
    return compiling.without_compiling()


def require_several_values(count: Tensor | int) -> None:
    """Fails if a feature has a single value, except under XLA.

    Args:
        count: Number of values, as `counted_batch_norm` returns it.

    Raises:
        tensorflow.errors.InvalidArgumentError: At once for a number, otherwise
            when the graph runs.
    """
    backend.require_several_values(count)


def fused_activations(*, invertible: bool = False) -> tuple[str, ...]:
    """Names of the activations that can be fused with the normalization.

    Args:
        invertible: Whether to return only those that `keeps="output"` allows.
    """
    return tuple(
        name
        for name, activation in activations.BY_NAME.items()
        if activation.inverse is not None or not invertible
    )


def away_from_zero(gamma: Tensor) -> Tensor:
    """Gamma for `keeps="output"`: at least 1e-3 in size, same gradient."""
    return backend.away_from_zero(gamma)


def checked_activation(activation: str, *, keeps: str) -> str:
    """`activation`; raises `ValueError` as `batch_norm` says."""
    one_of("keeps", keeps, ("input", "output"))
    allowed = fused_activations(invertible=keeps == "output")
    if activation not in allowed:
        raise ValueError(
            f"activation must be one of {', '.join(allowed)} where "
            f"keeps={keeps!r}. Received: activation={activation}"
        )
    return activation
