# SPDX-License-Identifier: Apache-2.0
"""Jacobians of functions of one tensor: as matrices, and as products.

With the Jacobian J of y = f(x), reverse mode gives `u -> Jᵀ u`. That map is
linear, so applying reverse mode to it gives `v -> J v`, at any u. Both products
derive from the same backward pass, so they are transposes of each other to
rounding, even if that pass itself were wrong.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from analysis.autodiff.tracing import traced, without_xla

Array = NDArray[np.floating[Any]]
Function = Callable[..., Any]


def batch_jacobian(function: Function) -> Callable[..., Array]:
    """Returns a compiled function for the Jacobian of every example.

    Args:
        function: Maps `[N, ...]` to `[N, ...]`, each example by itself;
            further arguments are tensors that are held fixed.

    Returns:
        `jacobian(inputs, *context)`, which returns `[N, outputs, inputs]` with
        each example's outputs and inputs flattened; float32 for half-precision
        inputs.
    """

    @traced
    def of_each(inputs: Any, *context: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            outputs = _in_dtype_of(inputs, function(inputs, *context))
            outputs = tf.reshape(outputs, [tf.shape(inputs)[0], -1])
        # `batch_jacobian` returns zeros if y does not depend on x.
        _connected(tape.gradient(outputs, inputs))
        rows = tape.batch_jacobian(outputs, inputs)
        return tf.reshape(rows, [*tf.unstack(tf.shape(rows)[:2]), -1])

    return lambda inputs, *context: _array(of_each(tensor(inputs), *context))


def jacobian(function: Function) -> Callable[..., Array]:
    """Returns a compiled function for the Jacobian of a whole batch.

    Args:
        function: Maps a tensor, and further ones that are held fixed, to a
            tensor; examples may depend on each other.

    Returns:
        `jacobian(inputs, *context)`, which returns `[outputs, inputs]`, both
        flattened; float32 for half-precision inputs.
    """

    @traced
    def whole(inputs: Any, *context: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = _in_dtype_of(inputs, function(inputs, *context))
            outputs = tf.reshape(outputs, [-1])
        rows = _connected(tape.jacobian(outputs, inputs))
        return tf.reshape(rows, [tf.shape(outputs)[0], -1])

    return lambda inputs, *context: _array(whole(tensor(inputs), *context))


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
        self._function = tf.function(without_xla(function), autograph=False)
        self._forward = traced(self._pushed)
        self._backward = traced(self._pulled)

    def output_shape(self, inputs: Any, *context: Any) -> tuple[int, ...]:
        """Shape of the function's output, without computing the output."""
        trace = self._function.get_concrete_function(inputs, *context)
        return tuple(trace.output_shapes.as_list())

    def forward(self, v: ArrayLike, inputs: Any, *context: Any) -> Array:
        """J v at `inputs`, for `v` of their shape."""
        vector = tf.cast(v, inputs.dtype)
        return _array(self._forward(vector, inputs, *context))

    def backward(self, u: ArrayLike, inputs: Any, *context: Any) -> Array:
        """Jᵀ u at `inputs`, for `u` of the output's shape."""
        vector = tf.cast(u, inputs.dtype)
        return _array(self._backward(vector, inputs, *context))

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
    """The inputs as a tensor to differentiate with respect to.

    Raises:
        ValueError: If they are not floating point, or contain no example.
    """
    converted = tf.convert_to_tensor(inputs)
    if not converted.dtype.is_floating:
        raise ValueError(
            "a Jacobian needs floating-point inputs. Received: "
            f"dtype={converted.dtype.name}"
        )
    if not converted.shape.rank or not converted.shape[0]:
        raise ValueError(
            "a Jacobian needs inputs [N, ...] of at least one example. "
            f"Received: shape={tuple(converted.shape)}"
        )
    return converted


def result_dtype(inputs: Any) -> np.dtype[Any]:
    """The dtype of a tensor, widened to at least float32 for NumPy."""
    return np.dtype(np.float64 if inputs.dtype == tf.float64 else np.float32)


def _array(result: Any) -> Array:
    array: Array = result.numpy().astype(result_dtype(result), copy=False)
    return array


def _in_dtype_of(inputs: Any, outputs: Any) -> Any:
    """Casts outputs: layers may compute in a dtype other than their input's."""
    return tf.cast(outputs, inputs.dtype)


def _connected(gradient: Any) -> Any:
    if gradient is None:
        raise ValueError(
            "the output must depend on the input through differentiable "
            "operations. Received: a function without a gradient"
        )
    return gradient
