# SPDX-License-Identifier: Apache-2.0
"""Claim 8: the population's variance is m/(m-1) times that of batches.

Section 3.1: Var[x] = m/(m-1) E_B[var_B], an expectation over training batches
of m examples; moving averages only follow it. The values are the pre-activation
W u of the first hidden layer on training examples, and the true variance is
that of all of them at once.
"""

from typing import Literal

import keras
import numpy as np
from numpy.typing import NDArray

import keras_bn
from analysis import autodiff
from analysis.autodiff import Place
from analysis.claims import training
from analysis.claims.claim import Claim, Result, Setting
from analysis.figures import batch_sizes

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Updates that the moving averages are given, of momentum 0.99.
UPDATES = 1000
Array = NDArray[np.float32]
Errors = dict[str, NDArray[np.float64]]


def measure(setting: Setting) -> Result:
    """Mean and spread of the relative error of each estimate, by batch size."""
    found = errors(values(setting), setting.seed)
    figures = {
        f"{name}, m = {size}: {what}": value
        for name, each in found.items()
        for size, row in zip(SIZES, each, strict=True)
        if size in (SIZES[0], 64, SIZES[-1])
        for what, value in (
            ("mean error", float(row.mean())),
            ("rms error", float(np.sqrt(np.mean(row**2)))),
        )
    }
    bias = {name: each.mean(1) for name, each in found.items()}
    expected = -1 / np.array(SIZES)
    return Result(
        figures=figures,
        holds=bool(
            np.abs(bias["m/(m-1) * mean of variances"]).max() < 0.02
            and np.abs(bias["mean of variances"] - expected).max() < 0.02
        ),
        note="a moving average has the noise of its last few hundred batches, "
        "which at small m is most of its error",
        draw=lambda: batch_sizes.figure(SIZES, found),
    )


def values(setting: Setting) -> Array:
    """W u `[N, 100]` of the trained network, N a multiple of every size."""
    recipe = training.recipe(setting)
    model = setting.runs.model(recipe)
    x_train = setting.runs.dataset(recipe.dataset).x_train
    rng = np.random.default_rng(setting.seed)
    count = min(len(x_train) // SIZES[-1], 40) * SIZES[-1]
    rows = rng.permutation(len(x_train))[:count]
    place = Place(model.get_layer("hidden1_linear"), "outputs")
    return autodiff.capture(model, [place], x_train[rows])()[place]


def errors(x: Array, seed: int) -> Errors:
    """By estimate: relative errors of the variance, `[sizes, features]`."""
    truth = x.var(0, dtype=np.float64)
    sizes = np.array(SIZES)[:, None]
    population = np.array([population_variance(x, m) for m in SIZES])
    unbiased, biased = (
        np.array([moving_variance(x, m, estimator, seed) for m in SIZES])
        for estimator in ("unbiased", "biased")
    )
    estimates = {
        "m/(m-1) * mean of variances": population,
        "mean of variances": population * (sizes - 1) / sizes,
        "moving average, unbiased": unbiased,
        "moving average, as in Keras": biased,
    }
    return {name: each / truth - 1 for name, each in estimates.items()}


def population_variance(x: Array, batch_size: int) -> NDArray[np.float64]:
    """The variance `[features]` of Algorithm 2, unbiased, of all rows once."""
    layer = keras_bn.BatchNormalization()
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    keras_bn.estimate_population_statistics(
        model, x, batch_size=batch_size, verbose=0
    )
    return np.asarray(layer.moving_variance, np.float64)


def moving_variance(
    x: Array,
    batch_size: int,
    estimator: Literal["biased", "unbiased"],
    seed: int,
) -> NDArray[np.float64]:
    """What the layer's moving average is after `UPDATES` random batches."""
    layer = keras_bn.BatchNormalization(moving_variance_estimator=estimator)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(
        keras.optimizers.SGD(0.0),
        "mse",
        jit_compile=False,
        steps_per_execution=100,
    )
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(x), UPDATES * batch_size)
    model.fit(x[rows], x[rows], batch_size=batch_size, shuffle=False, verbose=0)
    return np.asarray(layer.moving_variance, np.float64)


CLAIM = Claim(
    number=8,
    title="inference: the unbiased variance of the training set",
    section="3.1",
    expected="m/(m-1) times the mean of batch variances is that of all data "
    "(mean error < 2%), m from 2 to 512; without the factor 1/m too small",
    measure=measure,
    trains=True,
)
