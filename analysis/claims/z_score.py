# SPDX-License-Identifier: Apache-2.0
"""Claim 1: each feature is a z-score over the mini-batch."""

import keras
import numpy as np

from analysis.claims.result import Result, Settings, array, draw, normalized

TITLE = "normalization is a z-score per dimension over the mini-batch"
SECTION = "3, Algorithm 1"
EXPECTED = "per feature mean 0, variance var/(var+eps); not so per example"
EPSILON = 1e-3


def measure(settings: Settings) -> Result:
    """Moments per feature and per example, beside layer normalization."""
    x = draw(settings, 64, 10) * np.logspace(-2, 2, 10)
    y = array(normalized(x, epsilon=EPSILON))
    variance = x.var(0)
    layer = array(
        keras.layers.LayerNormalization(
            epsilon=EPSILON, center=False, scale=False, dtype="float64"
        )(x)
    )
    measured = {
        "mean per feature": np.abs(y.mean(0)).max(),
        "error of variance per feature": np.abs(
            y.var(0) - variance / (variance + EPSILON)
        ).max(),
        "mean per example": np.abs(y.mean(1)).max(),
        "layer norm: mean per feature": np.abs(layer.mean(0)).max(),
        "layer norm: mean per example": np.abs(layer.mean(1)).max(),
    }
    holds = (
        measured["mean per feature"] < 1e-10
        and measured["error of variance per feature"] < 1e-10
        and measured["mean per example"] > 0.1
        and measured["layer norm: mean per feature"] > 0.1
        and measured["layer norm: mean per example"] < 1e-10
    )
    return Result(measured, holds)
