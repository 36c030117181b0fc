# SPDX-License-Identifier: Apache-2.0
"""Building blocks that the paper's networks share."""

import zlib
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
        # Where it is alone, Keras computes less exactly if told to synchronize.
        return keras.layers.BatchNormalization(
            synchronized=strategies.several_replicas(), name=name
        )
    return None


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
    """`normalized` for a dense layer, whose activation is a layer of its own.

    So that whatever normalizes, runs differ in that alone.

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

    def linear(use_bias: bool) -> keras.layers.Layer:
        return keras.layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=gaussian(stddev, seed),
            name=f"{name}_linear",
        )

    return normalized(
        x, linear, norm=norm, activation=activation, name=name, fused=False
    )


def gaussian(stddev: float, seed: int) -> keras.initializers.Initializer:
    """Zero-mean Gaussian initializer with its own seed."""
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)


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

    The bias is dropped where normalization follows, as its mean is taken off
    again and `beta` does its work.

    Args:
        x: Symbolic tensor.
        linear: `linear(use_bias)` makes W.
        norm: One of `NORMALIZATIONS`; statistics for each place exist only
            of feature maps, elsewhere they are those of the feature.
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


def he_normal(scale: float, seed: int) -> keras.initializers.Initializer:
    """Gaussian of variance `scale**2 * 2 / fan-in` with its own seed."""
    return keras.initializers.VarianceScaling(
        2.0 * scale**2, "fan_in", "truncated_normal", seed=seed
    )


def seed_of(name: str, seed: int) -> int:
    """A seed for the weights of that name, the same in every network."""
    return zlib.crc32(f"{seed}/{name}".encode())


@keras.saving.register_keras_serializable("keras_bn")
class LocalResponseNormalization(keras.layers.Layer):
    """`x / (1 + 1e-4/5 * sum of squares of 5 neighbouring channels)^0.75`.

    Krizhevsky et al. 2012, section 3.3, with the constants of GoogLeNet.
    """

    def call(self, x: Any) -> Any:
        """Feature maps `[N, H, W, C]`, as they come."""
        squares = keras.ops.pad(keras.ops.square(x), [[0, 0]] * 3 + [[2, 2]])
        channels = x.shape[-1]
        total = sum(squares[..., i : i + channels] for i in range(5))
        return x / keras.ops.power(1.0 + 2e-5 * total, 0.75)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """The shape of the input."""
        return input_shape
