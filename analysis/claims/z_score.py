# SPDX-License-Identifier: Apache-2.0
"""Claim 1: normalization is a z-score per dimension, over the mini-batch.

Section 3: `x_hat = (x - E[x]) / sqrt(Var[x])`, for each dimension by itself.
With epsilon under the root the variance that results is `var / (var + eps)`.
For comparison, layer normalization takes both moments over the features of each
example.
"""

from collections.abc import Mapping

import keras
import numpy as np

from analysis.claims import scalars
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.pullback import Array
from keras_bn import ops

EPSILON = 1e-3
SHAPE = (64, 10)


def measure(setting: Setting) -> Result:
    """Moments of the outputs, for inputs of several distributions."""
    found = [moments(x) for x in inputs(setting.seed).values()]
    figures = {name: max(f[name] for f in found) for name in found[0]}
    return Result(figures=figures)


def inputs(seed: int) -> Mapping[str, Array]:
    """Values `[N, features]`, float64, whose features differ."""
    rng = np.random.default_rng(seed)
    scale, shift = rng.uniform(0.5, 3, SHAPE[1]), rng.normal(0, 5, SHAPE[1])
    return {
        "normal": shift + scale * rng.normal(size=SHAPE),
        "exponential": shift + scale * rng.exponential(size=SHAPE),
        "binary": rng.binomial(1, 0.3, SHAPE) + shift,
        "mean 1e6": 1e6 + scale * rng.normal(size=SHAPE),
        "spread 1e-4": shift + 1e-4 * rng.normal(size=SHAPE),
        "spread 1e6": 1e6 * scale * rng.normal(size=SHAPE),
    }


def moments(x: Array) -> dict[str, float]:
    """The largest errors of moments per feature, and per example."""
    y = np.asarray(ops.batch_norm(x, axes=0, epsilon=EPSILON)[0])
    layer = keras.layers.LayerNormalization(
        center=False, scale=False, dtype="float64"
    )
    by_example = np.asarray(layer(x))
    variance = x.var(0)
    wanted = variance / (variance + EPSILON)
    return {
        "per feature: |mean|": scalars.largest(y.mean(0)),
        "per feature: |var - var/(var+eps)|": scalars.largest(
            y.var(0) - wanted
        ),
        "per example: |mean|": scalars.largest(y.mean(1)),
        "layer normalization, per feature: |mean|": scalars.largest(
            by_example.mean(0)
        ),
        "layer normalization, per example: |mean|": scalars.largest(
            by_example.mean(1)
        ),
    }


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return (
        figures["per feature: |mean|"] < 1e-9
        and figures["per feature: |var - var/(var+eps)|"] < 1e-9
        and figures["per example: |mean|"] > 0.01
        and figures["layer normalization, per example: |mean|"] < 1e-9
        and figures["layer normalization, per feature: |mean|"] > 0.01
    )


CLAIM = Claim(
    number=1,
    title="normalization is a z-score per feature, over the mini-batch",
    section="3",
    expected="per feature mean 0 and variance var/(var+eps) to 1e-9; not so "
    "per example, where layer normalization has its mean 0",
    measure=measure,
    holds=holds,
)
