# SPDX-License-Identifier: Apache-2.0
"""Claim 11: a feature map is one feature with m * p * q values.

Section 3.2: a batch of 32 with maps of 5 x 5 gives 800 values, normalized
together; the population's variance is m'/(m'-1) times that of a batch.
"""

import keras
import numpy as np

from analysis.claims import scalars
from analysis.claims.claim import Claim, Figures, Result, Setting
from keras_bn import BatchNormalization

BATCH, SIZE, MAPS = 32, 5, 4
VALUES = BATCH * SIZE * SIZE


def measure(setting: Setting) -> Result:
    """Statistics that the layer computes for a convolution's maps."""
    rng = np.random.default_rng(setting.seed)
    images = rng.normal(2, 1, (BATCH, SIZE + 2, SIZE + 2, 3))
    convolution = keras.layers.Conv2D(
        MAPS,
        3,
        use_bias=False,
        kernel_initializer=keras.initializers.RandomNormal(seed=setting.seed),
        dtype="float64",
    )
    maps = np.asarray(convolution(images))
    # With momentum 0 the moving statistics are those of the batch.
    layer = BatchNormalization(
        momentum=0.0, moving_variance_estimator="unbiased", dtype="float64"
    )
    y = np.asarray(layer(maps, training=True))
    columns = maps.reshape(VALUES, MAPS)
    variance = np.asarray(layer.moving_variance)
    figures = {
        "values per map": float(VALUES),
        "gamma and beta, each": float(np.size(layer.gamma)),
        "|mean - that of m*p*q values|": scalars.largest(
            np.asarray(layer.moving_mean) - columns.mean(0)
        ),
        "|variance / (m' / (m'-1) * biased) - 1|": scalars.largest(
            variance / (columns.var(0) * VALUES / (VALUES - 1)) - 1
        ),
        "|mean of y|, per map": scalars.largest(y.mean((0, 1, 2))),
        "|mean of y|, per place of a map": scalars.largest(y.mean(0)),
    }
    return Result(
        figures=figures,
        note="per place the mean is not 0: places share their map's statistics",
    )


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return (
        figures["gamma and beta, each"] == MAPS
        and figures["|mean - that of m*p*q values|"] < 1e-12
        and figures["|variance / (m' / (m'-1) * biased) - 1|"] < 1e-12
        and figures["|mean of y|, per map"] < 1e-12
        and figures["|mean of y|, per place of a map"] > 0.01
    )


CLAIM = Claim(
    number=11,
    title="convolutions: statistics over batch and places of a map",
    section="3.2",
    expected="32 x 5 x 5 = 800 values, one gamma and beta per map; statistics "
    "of all values of a map (1e-12); factor 800/799",
    measure=measure,
    holds=holds,
)
