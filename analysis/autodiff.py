# SPDX-License-Identifier: Apache-2.0
"""What needs TensorFlow in the microscope: derivatives and captured tensors."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]
Function = Callable[[Any], Any]


def capture(
    model: keras.Model, layers: Sequence[keras.layers.Layer]
) -> Callable[[ArrayLike], dict[str, tuple[Array, Array]]]:
    """Returns a function that runs a model and reports layers' tensors.

    The model runs in inference mode, so nothing of it changes. It works for
    every kind of Keras model, as the layers' own calls are listened to.

    Args:
        model: A built model.
        layers: Layers of it, each called once with one tensor.

    Returns:
        `run(inputs)`, which gives `{layer name: (input, output)}` as arrays.
    """

    @tf.function(autograph=False, reduce_retracing=True)
    def run(inputs: Any) -> dict[str, tuple[Any, Any]]:
        captured: dict[str, tuple[Any, Any]] = {}
        with _listening(layers, captured):
            model(inputs, training=False)
        return captured

    def captured_arrays(inputs: ArrayLike) -> dict[str, tuple[Array, Array]]:
        tensors = run(tf.convert_to_tensor(inputs))
        return {
            name: (x.numpy(), y.numpy()) for name, (x, y) in tensors.items()
        }

    return captured_arrays


@contextlib.contextmanager
def _listening(
    layers: Sequence[keras.layers.Layer],
    captured: dict[str, tuple[Any, Any]],
) -> Iterator[None]:
    def listen(layer: keras.layers.Layer) -> None:
        call = layer.call

        def recording(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = call(inputs, *args, **kwargs)
            captured[layer.name] = (inputs, outputs)
            return outputs

        # Past Keras' attribute tracking, which this is no business of.
        object.__setattr__(layer, "call", recording)

    try:
        for layer in layers:
            listen(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)


def batch_jacobian(function: Function) -> Callable[[ArrayLike], Array]:
    """Returns a compiled function for the Jacobian of every example.

    Args:
        function: Maps `[N, ...]` to `[N, ...]`, each example by itself.

    Returns:
        `jacobian(inputs)`, which gives `[N, outputs, inputs]`, the example's
        output and input flattened.
    """

    @tf.function(autograph=False, reduce_retracing=True)
    def jacobian(inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.reshape(function(inputs), [tf.shape(inputs)[0], -1])
        rows = tape.batch_jacobian(outputs, inputs)
        return tf.reshape(rows, [*tf.unstack(tf.shape(rows)[:2]), -1])

    return lambda inputs: jacobian(tf.convert_to_tensor(inputs)).numpy()


def jacobian(function: Function) -> Callable[[ArrayLike], Array]:
    """Returns a compiled function for the Jacobian of a whole batch.

    Args:
        function: Maps a tensor to a tensor; examples may depend on each
            other.

    Returns:
        `jacobian(inputs)`, which gives `[outputs, inputs]`, all flattened.
    """

    @tf.function(autograph=False, reduce_retracing=True)
    def whole(inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.reshape(function(inputs), [-1])
        rows = tape.jacobian(outputs, inputs)
        return tf.reshape(rows, [tf.shape(outputs)[0], -1])

    return lambda inputs: whole(tf.convert_to_tensor(inputs)).numpy()
