# SPDX-License-Identifier: Apache-2.0
"""Building blocks that the paper's networks share."""

from typing import Any

import keras

from keras_bn.layer import BatchNormalization

#: The values of `norm`: ours, Keras' own layer, or no normalization.
NORMALIZATIONS = ("batch", "keras", "none")


def normalization(norm: str, *, name: str) -> keras.layers.Layer | None:
    """Makes the layer that `norm` names.

    Its statistics are those of the whole batch, on however many devices.

    Args:
        norm: One of `NORMALIZATIONS`.
        name: Name of the layer.

    Returns:
        A layer, or `None` for `"none"`.

    Raises:
        ValueError: If `norm` is none of them.
    """
    if norm == "batch":
        return BatchNormalization(synchronized=True, name=name)
    if norm == "keras":
        return keras.layers.BatchNormalization(synchronized=True, name=name)
    if norm == "none":
        return None
    raise ValueError(
        f"norm must be one of {', '.join(NORMALIZATIONS)}. "
        f"Received: norm={norm}"
    )


def dense(
    x: Any,
    units: int,
    *,
    norm: str,
    activation: str,
    stddev: float,
    seed: int,
    name: str,
) -> Any:
    """`activation(BN(W x))`, the paper's placement (section 3.2).

    The bias is dropped where normalization follows, as its mean is taken off
    again and `beta` does its work. The activation layer carries `name`, so
    what is measured of the block appears under it.

    Args:
        x: Symbolic tensor `[N, features]`.
        units: Width of the output.
        norm: One of `NORMALIZATIONS`.
        activation: Name of a Keras activation.
        stddev: Standard deviation of the Gaussian that W starts from.
        seed: Seed of that Gaussian.
        name: Name of the block.

    Returns:
        Symbolic tensor `[N, units]`.
    """
    normalize = normalization(norm, name=f"{name}_norm")
    x = keras.layers.Dense(
        units,
        use_bias=normalize is None,
        kernel_initializer=gaussian(stddev, seed),
        name=f"{name}_linear",
    )(x)
    if normalize is not None:
        x = normalize(x)
    return keras.layers.Activation(activation, name=name)(x)


def gaussian(stddev: float, seed: int) -> keras.initializers.Initializer:
    """Zero-mean Gaussian initializer with its own seed."""
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)
