# SPDX-License-Identifier: Apache-2.0
"""Claim 11: feature maps are normalized as one feature each."""

import keras
import numpy as np

import keras_bn
from analysis.claims.result import Result, Settings, draw
from keras_bn import ops

TITLE = "convolutions: a mini-batch of m maps of p x q has m p q values"
SECTION = "3.2"
EXPECTED = "statistics of all 32 x 5 x 5 = 800 values; factor 800/799"


def measure(settings: Settings) -> Result:
    """Errors of the statistics, and the factor that the layer applies."""
    x = draw(settings, 32, 5, 5, 6)
    flat = x.reshape(800, 6)
    tensor = keras.ops.convert_to_tensor(x)
    _, mean, variance = ops.batch_norm(tensor, axes=(0, 1, 2))
    factors = {}
    for estimator in ("biased", "unbiased"):
        layer = keras_bn.BatchNormalization(
            momentum=0.0,
            moving_variance_estimator=estimator,
            dtype="float64",
        )
        layer(x, training=True)
        factors[estimator] = np.asarray(layer.moving_variance)
    factor = float(np.mean(factors["unbiased"] / factors["biased"]))
    measured = {
        "error of the mean": np.abs(np.asarray(mean) - flat.mean(0)).max(),
        "error of the variance": np.abs(
            np.asarray(variance) - flat.var(0)
        ).max(),
        "factor": factor,
    }
    holds = (
        measured["error of the mean"] < 1e-12
        and measured["error of the variance"] < 1e-12
        and abs(factor - 800 / 799) < 1e-9
    )
    return Result(measured, holds)
