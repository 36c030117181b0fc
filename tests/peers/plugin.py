# SPDX-License-Identifier: Apache-2.0
"""Pytest plugin that replaces Keras' BatchNormalization with ours.

At the end it prints how many of our layers were built, so that a run in which
the replacement did not happen can be told from a good one.
"""

import keras
from keras.src import layers

from keras_bn import BatchNormalization

_built = []


def pytest_configure():
    build = BatchNormalization.build

    def counted(self, input_shape):
        _built.append(self.name)
        return build(self, input_shape)

    BatchNormalization.build = counted
    # Keras' tests reach the class by either path, when they run.
    layers.BatchNormalization = BatchNormalization
    keras.layers.BatchNormalization = BatchNormalization


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"our layers built: {len(_built)}")
