# SPDX-License-Identifier: Apache-2.0
"""Where in a model a batch stops being finite."""

from typing import Any

import keras
import tensorflow as tf

Tensor = Any  # tf.Tensor is untyped for mypy.
#: What `first_bad_layer` calls the inputs.
BATCH = "the batch itself"


def first_bad_layer(
    model: keras.Model, x: Tensor, *, training: bool = True
) -> str:
    """The first thing that is not finite as a batch runs through a model.

    Args:
        model: The model.
        x: The batch.
        training: Whether the model runs in training mode.

    Returns:
        `BATCH`, or a phrase that names a layer or the loss.
    """
    if not _finite(x):
        return BATCH
    layers = model.layers[1:]
    outputs = keras.Model(model.inputs[0], [layer.output for layer in layers])
    for layer, output in zip(
        layers, outputs(x, training=training), strict=True
    ):
        if not all(map(_finite, layer.weights)):
            return f"the weights of {layer.name}"
        if not _finite(output):
            return f"the output of {layer.name}"
    return "the loss"


def _finite(tensor: Any) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(tensor))))
