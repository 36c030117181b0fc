# SPDX-License-Identifier: Apache-2.0
"""Features that older versions of Keras and TensorFlow in our range lack."""

import inspect

import keras
import pytest

KERAS = tuple(map(int, keras.__version__.split(".")[:2]))
_OF_KERAS_LAYER = inspect.signature(keras.layers.BatchNormalization).parameters

needs_renorm = pytest.mark.skipif(
    "renorm" not in _OF_KERAS_LAYER,
    reason="Keras' layer has renorm from Keras 3.14 on",
)
needs_litert = pytest.mark.skipif(
    KERAS < (3, 13), reason="Keras exports to LiteRT from 3.13 on"
)
