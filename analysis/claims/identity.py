# SPDX-License-Identifier: Apache-2.0
"""Claim 2: scale and shift can undo the normalization."""

import keras
import numpy as np

from analysis.claims.result import Result, Settings, array, draw
from keras_bn import ops

TITLE = "scale and shift keep what the layer can represent"
SECTION = "3"
EXPECTED = "gamma = sqrt(var+eps), beta = mean give back x to rounding"
EPSILON = 1e-3


def measure(settings: Settings) -> Result:
    """Largest difference of input and output, relative to the input."""
    x = draw(settings, 64, 10)
    gamma, beta = np.sqrt(x.var(0) + EPSILON), x.mean(0)
    y, *_ = ops.batch_norm(
        keras.ops.convert_to_tensor(x), gamma, beta, axes=0, epsilon=EPSILON
    )
    error = np.abs(array(y) - x).max() / np.abs(x).max()
    return Result({"relative error": error}, error < 1e-12)
