# SPDX-License-Identifier: Apache-2.0
"""The fully connected network of section 4.1 (Ioffe & Szegedy 2015)."""

from typing import Any

import keras

from keras_bn.arguments import one_of
from keras_bn.models import blocks

#: The values of `norm`; `"per_activation"` needs feature maps.
NORMALIZATIONS = ("batch", "keras", "none")


def mlp(
    *,
    input_size: int = 784,
    classes: int = 10,
    width: int = 100,
    depth: int = 3,
    norm: str = "batch",
    activation: str = "sigmoid",
    weight_stddev: float = 0.05,
    dropout: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Hidden layers `hidden1 .. hidden<depth>`, then `logits`.

    The paper: 28x28 binary images, 3 hidden layers of 100 sigmoid units,
    weights from a small random Gaussian (its standard deviation is not given;
    0.05 reproduces the printed curves best), BN on every hidden layer. Networks
    that differ only in `norm` start from the same weights.

    Args:
        input_size: Number of input features (pixels).
        classes: Number of outputs.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        norm: `"batch"` (ours), `"keras"` (Keras' own layer) or `"none"`.
        activation: Name of a Keras activation.
        weight_stddev: Standard deviation of the initial weights.
        dropout: Share dropped after each hidden layer.
        seed: Seed of the initial weights and of dropout.

    Returns:
        A functional model from `[N, input_size]` to logits `[N, classes]`.

    Raises:
        ValueError: If `norm` is unknown or a size is not positive.
    """
    sizes = {
        "input_size": input_size,
        "classes": classes,
        "width": width,
        "depth": depth,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1. Received: {name}={size}")
    one_of("norm", norm, NORMALIZATIONS)
    inputs = keras.Input((input_size,), name="pixels")
    x = inputs
    for layer in range(1, depth + 1):
        x = _hidden(
            x,
            width,
            norm=norm,
            activation=activation,
            stddev=weight_stddev,
            seed=1000 * seed + layer,
            name=f"hidden{layer}",
        )
        if dropout:
            x = keras.layers.Dropout(
                dropout, seed=1000 * seed + layer, name=f"dropout{layer}"
            )(x)
    logits = keras.layers.Dense(
        classes,
        kernel_initializer=_gaussian(weight_stddev, 1000 * seed),
        name="logits",
        dtype=keras.config.floatx(),  # also in mixed precision
    )(x)
    return keras.Model(inputs, logits, name="mlp")


def _hidden(
    x: Any,
    units: int,
    *,
    norm: str,
    activation: str,
    stddev: float,
    seed: int,
    name: str,
) -> Any:
    """A dense block with a separate layer for its activation.

    Runs with different normalizations then differ in nothing else.
    """

    def linear(use_bias: bool) -> keras.layers.Layer:
        return keras.layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=_gaussian(stddev, seed),
            name=f"{name}_linear",
        )

    return blocks.normalized(
        x, linear, norm=norm, activation=activation, name=name, fused=False
    )


def _gaussian(stddev: float, seed: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)
