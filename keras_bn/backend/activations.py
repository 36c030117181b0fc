# SPDX-License-Identifier: Apache-2.0
"""Activations that are computed together with the normalization.

Each with its derivative, and with its inverse where it has one, as functions
of the pre-activation `z` and the output `y`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation, element by element.

    Attributes:
        function: `z -> y`.
        derivative: `z -> dy/dz`.
        inverse: `y -> z`; `None` if several `z` have the same `y`.
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None = None

    def inverted(self, y: Tensor) -> Tensor:
        """`z` from `y`; for activations that have an inverse."""
        assert self.inverse is not None
        return self.inverse(y)


#: Slope of leaky_relu below 0, Keras' default.
_LEAK = 0.2


def _step(z: Tensor) -> Tensor:
    return tf.cast(z > 0, z.dtype)


def _leaky_derivative(z: Tensor) -> Tensor:
    return tf.where(z > 0, tf.ones([], z.dtype), tf.constant(_LEAK, z.dtype))


def _below(z: Tensor) -> Tensor:
    # Where z > 0 the other branch is taken; kept finite for its gradient.
    return tf.minimum(z, 0)


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1.0 + tf.math.erf(z * math.sqrt(0.5)))


def _gelu_derivative(z: Tensor) -> Tensor:
    density = tf.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return _normal_cdf(z) + z * density


def _silu_derivative(z: Tensor) -> Tensor:
    gate = tf.sigmoid(z)
    return gate * (1.0 + z * (1.0 - gate))


def _sigmoid_derivative(z: Tensor) -> Tensor:
    y = tf.sigmoid(z)
    return y * (1.0 - y)


LINEAR = Activation(lambda z: z, tf.ones_like, lambda y: y)

#: By the names of Keras' activation functions, with their default arguments.
BY_NAME = {
    "linear": LINEAR,
    "relu": Activation(lambda z: tf.maximum(z, 0), _step),
    "leaky_relu": Activation(
        lambda z: tf.where(z > 0, z, _LEAK * z),
        _leaky_derivative,
        lambda y: tf.where(y > 0, y, y / _LEAK),
    ),
    "elu": Activation(
        lambda z: tf.where(z > 0, z, tf.math.expm1(_below(z))),
        lambda z: tf.where(z > 0, tf.ones([], z.dtype), tf.exp(_below(z))),
        lambda y: tf.where(y > 0, y, tf.math.log1p(_below(y))),
    ),
    "sigmoid": Activation(tf.sigmoid, _sigmoid_derivative),
    "tanh": Activation(tf.tanh, lambda z: 1.0 - tf.square(tf.tanh(z))),
    "silu": Activation(lambda z: z * tf.sigmoid(z), _silu_derivative),
    "gelu": Activation(lambda z: z * _normal_cdf(z), _gelu_derivative),
}
