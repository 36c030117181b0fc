# SPDX-License-Identifier: Apache-2.0
"""The block that the paper's networks share: W x, normalized, activated."""

from collections.abc import Callable
from typing import Any

import keras

from keras_bn import arguments
from keras_bn.backend import strategies
from keras_bn.layer import BatchNormalization

#: The values of `norm`: ours, Keras' own layer, ours with statistics for each
#: place of a feature map, or no normalization.
NORMALIZATIONS = ("batch", "keras", "per_activation", "none")


def normalization(
    norm: str, *, name: str, activation: str | None = None
) -> keras.layers.Layer | None:
    """Makes the layer that `norm` names.

    Its statistics are those of the whole batch, on however many devices.

    Args:
        norm: One of `NORMALIZATIONS`.
        name: Name of the layer.
        activation: What ours applies within the layer.

    Returns:
        A layer, or `None` for `"none"`.

    Raises:
        ValueError: If `norm` is none of them.
    """
    arguments.one_of("norm", norm, NORMALIZATIONS)
    if norm == "batch":
        return BatchNormalization(
            synchronized=True, activation=activation, name=name
        )
    if norm == "per_activation":
        return BatchNormalization(
            axis=(1, 2, 3), synchronized=True, activation=activation, name=name
        )
    if norm == "keras":
        # With a single replica Keras is less exact if told to synchronize.
        return keras.layers.BatchNormalization(
            synchronized=strategies.several_replicas(), name=name
        )
    return None


def normalized(
    x: Any,
    linear: Callable[[bool], keras.layers.Layer],
    *,
    norm: str,
    activation: str,
    name: str,
    fused: bool = True,
) -> Any:
    """`activation(BN(W x))`, the paper's placement (section 3.2).

    The bias is dropped if normalization follows, which would subtract it again;
    `beta` takes its place.

    Args:
        x: Symbolic tensor.
        linear: `linear(use_bias)` makes W.
        norm: One of `NORMALIZATIONS`; `"per_activation"` means `"batch"`
            unless `x` has feature maps.
        activation: Name of a Keras activation.
        name: Name of the block, carried by its last layer.
        fused: Whether our layer applies the activation itself.

    Returns:
        Symbolic tensor.
    """
    if norm == "per_activation" and len(x.shape) == 2:
        norm = "batch"
    x = linear(norm == "none")(x)
    within = fused and norm in ("batch", "per_activation")
    normalize = normalization(
        norm,
        name=name if within else f"{name}_norm",
        activation=activation if within else None,
    )
    if normalize is not None:
        x = normalize(x)
    if within:
        return x
    return keras.layers.Activation(activation, name=name)(x)
