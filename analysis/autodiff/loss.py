# SPDX-License-Identifier: Apache-2.0
"""The training loss and its gradient at any weights, on a fixed batch."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from analysis.autodiff.tracing import traced

Array = NDArray[np.floating[Any]]

#: Keeps small gradients from vanishing in float16; a power of two, so exact.
_FLOAT16_SCALE = 1024.0


def loss_and_gradients(
    model: keras.Model, inputs: Any, targets: Any
) -> Callable[[Sequence[Array]], tuple[float, list[Array]]]:
    """Returns a compiled function for the loss and its gradient.

    The model runs in training mode, with the statistics of this batch, and
    with the same dropout mask at every call until training draws the next.
    None of the model's variables change. The loss includes the terms that
    layers and regularizers add.

    Args:
        model: A compiled model.
        inputs: The model's inputs, as arrays `[N, ...]`.
        targets: The targets of its loss.

    Returns:
        `run(weights)`: weights like `model.trainable_variables` -> the loss
        and, array by array, its gradient.
    """
    variables = model.trainable_variables
    scale = _FLOAT16_SCALE if model.compute_dtype == "float16" else 1.0
    batch = keras.tree.map_structure(tf.convert_to_tensor, (inputs, targets))

    @traced
    def run(weights: list[Any], batch: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            mapping = list(zip(variables, weights, strict=True))
            with keras.StatelessScope(mapping, collect_losses=True):
                outputs = model(batch[0], training=True)
                loss = model.compute_loss(*batch, outputs, training=True)
            scaled = loss * scale
        gradients = tape.gradient(
            scaled, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        # The gradient of an embedding is sparse: its nonzero rows only.
        whole = map(tf.convert_to_tensor, gradients)
        return loss, [gradient / scale for gradient in whole]

    def at(weights: Sequence[Array]) -> tuple[float, list[Array]]:
        loss, gradients = run([tf.constant(w) for w in weights], batch)
        return float(loss), [gradient.numpy() for gradient in gradients]

    return at


def slopes(function: Callable[[Any], Any]) -> Callable[[Array], Array]:
    """Returns a compiled function for the derivative of single values.

    Args:
        function: Maps each value of a tensor by itself.
    """

    @traced
    def run(values: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = function(values)
        return tape.gradient(
            outputs, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    def at(values: Array) -> Array:
        array: Array = run(tf.convert_to_tensor(values)).numpy()
        return array

    return at
