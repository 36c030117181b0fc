# SPDX-License-Identifier: Apache-2.0
"""Activations that are computed together with the normalization.

Each comes with its pullback, which maps the cotangent `dy` of the output `y` to
the cotangent `dz` of the pre-activation `z`, and with its inverse if any.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation, element by element.

    Attributes:
        function: `z -> y`.
        pullback: `(dy, z) -> dz`: `dy` times the derivative at `z`.
        inverse: `y -> z`; `None` if several `z` have the same `y`.
        infimum: What `y` is always above, but for its rounding.
    """

    function: Callable[[Tensor], Tensor]
    pullback: Callable[[Tensor, Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None = None
    infimum: float = -math.inf

    def inverted(self, y: Tensor, dtype: Any) -> Tensor:
        """`z` from `y`; for activations that have an inverse.

        A `y` rounded to the infimum is replaced by the next number above it,
        whose `z` is finite and whose derivative is close to 0.

        Args:
            y: The output, in the dtype that it was rounded to.
            dtype: The dtype of `z`.
        """
        if self.inverse is None:
            raise ValueError("the activation must have an inverse")
        if math.isfinite(self.infimum):
            of_dtype = y.dtype.as_numpy_dtype
            least = np.nextafter(of_dtype(self.infimum), of_dtype(0))
            y = tf.where(y < least, tf.constant(least, y.dtype), y)
        return self.inverse(tf.cast(y, dtype))


#: Slope of leaky_relu below 0, Keras' default.
_LEAK = 0.2


def _relu_pullback(dy: Tensor, z: Tensor) -> Tensor:
    return tf.raw_ops.ReluGrad(gradients=dy, features=z)


def _leaky_relu_pullback(dy: Tensor, z: Tensor) -> Tensor:
    return dy * tf.where(
        z > 0, tf.ones([], z.dtype), tf.constant(_LEAK, z.dtype)
    )


def _elu_pullback(dy: Tensor, z: Tensor) -> Tensor:
    return dy * tf.where(z > 0, tf.ones([], z.dtype), tf.exp(_below(z)))


def _below(z: Tensor) -> Tensor:
    # For z > 0 the other branch is taken; here the gradient stays finite.
    return tf.minimum(z, 0)


def _expm1(z: Tensor) -> Tensor:
    # For z <= 0. ONNX has no expm1, and TensorFlow's ELU computes exp(z) - 1.
    t = tf.tanh(0.5 * z)
    return 2.0 * t / (1.0 - t)


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1.0 + tf.math.erf(z * math.sqrt(0.5)))


def _gelu_pullback(dy: Tensor, z: Tensor) -> Tensor:
    density = tf.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return dy * (_normal_cdf(z) + z * density)


def _silu_pullback(dy: Tensor, z: Tensor) -> Tensor:
    gate = tf.sigmoid(z)
    return dy * (gate * (1.0 + z * (1.0 - gate)))


def _sigmoid_pullback(dy: Tensor, z: Tensor) -> Tensor:
    y = tf.sigmoid(z)
    return dy * (y * (1.0 - y))


def _tanh_pullback(dy: Tensor, z: Tensor) -> Tensor:
    return dy * (1.0 - tf.square(tf.tanh(z)))


LINEAR = Activation(lambda z: z, lambda dy, _: dy, lambda y: y)

#: By the names of Keras' activation functions, with their default arguments.
BY_NAME = {
    "linear": LINEAR,
    "relu": Activation(tf.nn.relu, _relu_pullback),
    "leaky_relu": Activation(
        lambda z: tf.where(z > 0, z, _LEAK * z),
        _leaky_relu_pullback,
        lambda y: tf.where(y > 0, y, y / _LEAK),
    ),
    "elu": Activation(
        lambda z: tf.where(z > 0, z, _expm1(_below(z))),
        _elu_pullback,
        lambda y: tf.where(y > 0, y, tf.math.log1p(_below(y))),
        infimum=-1.0,
    ),
    "sigmoid": Activation(tf.sigmoid, _sigmoid_pullback),
    "tanh": Activation(tf.tanh, _tanh_pullback),
    "silu": Activation(lambda z: z * tf.sigmoid(z), _silu_pullback),
    "gelu": Activation(lambda z: z * _normal_cdf(z), _gelu_pullback),
}
