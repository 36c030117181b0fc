# SPDX-License-Identifier: Apache-2.0
"""Jacobians of functions of one tensor: as matrices, and as products.

With the Jacobian J of y = f(x), reverse mode gives `u -> Jᵀ u`. That map is
linear, so its own reverse mode is `v -> J v`, whatever u it is taken at.
Both products come from the one backward pass, so that they are each other's
transpose to rounding, even where that pass itself were wrong.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from analysis.autodiff.tracing import briefly, traced

Array = NDArray[np.floating[Any]]
Function = Callable[..., Any]


def batch_jacobian(function: Function) -> Callable[..., Array]:
    """Returns a compiled function for the Jacobian of every example.

    Args:
        function: Maps `[N, ...]`, and further tensors that are held fixed, to
            `[N, ...]`, each example by itself.

    Returns:
        `jacobian(inputs, *context)`, which gives `[N, outputs, inputs]`, the
        example's output and input flattened.
    """

    @traced
    def jacobian(inputs: Any, *context: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            outputs = _in_dtype_of(inputs, function(inputs, *context))
            outputs = tf.reshape(outputs, [tf.shape(inputs)[0], -1])
        # `batch_jacobian` gives zeros where there is no way from x to y.
        _connected(tape.gradient(outputs, inputs))
        rows = tape.batch_jacobian(outputs, inputs)
        return tf.reshape(rows, [*tf.unstack(tf.shape(rows)[:2]), -1])

    return lambda inputs, *context: jacobian(tensor(inputs), *context).numpy()


def jacobian(function: Function) -> Callable[..., Array]:
    """Returns a compiled function for the Jacobian of a whole batch.

    Args:
        function: Maps a tensor, and further ones that are held fixed, to a
            tensor; examples may depend on each other.

    Returns:
        `jacobian(inputs, *context)`, which gives `[outputs, inputs]`, all
        flattened.
    """

    @traced
    def whole(inputs: Any, *context: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = _in_dtype_of(inputs, function(inputs, *context))
            outputs = tf.reshape(outputs, [-1])
        rows = _connected(tape.jacobian(outputs, inputs))
        return tf.reshape(rows, [tf.shape(outputs)[0], -1])

    return lambda inputs, *context: whole(tensor(inputs), *context).numpy()


class Products:
    """Compiled products of a function's Jacobian with vectors.

    Args:
        function: Maps a tensor, and further ones that are held fixed, to a
            tensor; differentiable twice.

    Raises:
        ValueError: On use, if the output does not depend on the first tensor
            in a differentiable way.
    """

    def __init__(self, function: Function) -> None:
        self._function = tf.function(briefly(function), autograph=False)
        self._forward = traced(self._pushed)
        self._backward = traced(self._pulled)

    def output_shape(self, inputs: Any, *context: Any) -> tuple[int, ...]:
        """Shape of the function's output, which is not computed."""
        trace = self._function.get_concrete_function(inputs, *context)
        return tuple(trace.output_shapes.as_list())

    def forward(self, v: ArrayLike, inputs: Any, *context: Any) -> Array:
        """J v at `inputs`, for `v` of their shape."""
        vector = tf.cast(v, inputs.dtype)
        product: Array = self._forward(vector, inputs, *context).numpy()
        return product

    def backward(self, u: ArrayLike, inputs: Any, *context: Any) -> Array:
        """Jᵀ u at `inputs`, for `u` of the output's shape."""
        vector = tf.cast(u, inputs.dtype)
        product: Array = self._backward(vector, inputs, *context).numpy()
        return product

    def _pulled(self, u: Any, inputs: Any, *context: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = _in_dtype_of(inputs, self._function(inputs, *context))
        return _connected(tape.gradient(outputs, inputs, output_gradients=u))

    def _pushed(self, v: Any, inputs: Any, *context: Any) -> Any:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = _in_dtype_of(inputs, self._function(inputs, *context))
            u = tf.zeros_like(outputs)
            outer.watch(u)
            pulled = _connected(
                tape.gradient(outputs, inputs, output_gradients=u)
            )
        return _connected(outer.gradient(pulled, u, output_gradients=v))


def tensor(inputs: ArrayLike) -> Any:
    """The inputs as a tensor to differentiate by.

    Raises:
        ValueError: If they are not floating point.
    """
    converted = tf.convert_to_tensor(inputs)
    if not converted.dtype.is_floating:
        raise ValueError(
            "a Jacobian needs floating-point inputs. Received: "
            f"dtype={converted.dtype.name}"
        )
    return converted


def _in_dtype_of(inputs: Any, outputs: Any) -> Any:
    """Layers may compute in another dtype than they are given."""
    return tf.cast(outputs, inputs.dtype)


def _connected(gradient: Any) -> Any:
    if gradient is None:
        raise ValueError(
            "the output must depend on the input through differentiable "
            "operations. Received: a function without a gradient"
        )
    return gradient
