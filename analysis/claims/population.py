# SPDX-License-Identifier: Apache-2.0
"""Claim 8: what inference normalizes with."""

import keras
import numpy as np

import keras_bn
from analysis.claims.result import Result, Settings, draw

TITLE = "inference: unbiased, from the training set, over per-batch values"
SECTION = "3.1, Algorithm 2"
EXPECTED = "m/(m-1) mean(var_B) is unbiased at every m; moving averages are not"
SIZES = (2, 8, 32, 128, 512)


def measure(settings: Settings) -> Result:
    """Ratios of estimates to the variance of all data, over batch sizes."""
    count = 2**15 if settings.full else 2**13
    x = draw(settings, count, 4).astype(np.float32)
    true = np.var(x.astype(np.float64), 0, ddof=1)
    measured = {}
    for size in SIZES:
        layer = keras_bn.BatchNormalization(epsilon=1e-3)
        model = keras.Sequential([keras.Input((4,)), layer])
        for pooling in ("paper", "exact"):
            keras_bn.estimate_population_statistics(
                model, x, batch_size=size, pooling=pooling, verbose=0
            )
            ratio = np.asarray(layer.moving_variance) / true
            measured[f"{pooling}, m={size}"] = float(ratio.mean())
        moving = keras_bn.BatchNormalization(epsilon=1e-3)
        moving.build((None, 4))
        for first in range(0, min(count, 200 * size), size):
            moving(x[first : first + size], training=True)
        ratio = np.asarray(moving.moving_variance) / true
        measured[f"moving average, m={size}"] = float(ratio.mean())
    exact = [abs(measured[f"exact, m={m}"] - 1) for m in SIZES]
    paper = [abs(measured[f"paper, m={m}"] - 1) for m in SIZES]
    holds = (
        max(exact) < 1e-3
        and max(paper) < 0.05
        and measured["moving average, m=2"] < 0.75
    )
    return Result(
        measured,
        holds,
        "Moving averages of the biased variance miss the factor (m-1)/m, half "
        "of it at m=2, and where the steps were few, still hold their start.",
    )
