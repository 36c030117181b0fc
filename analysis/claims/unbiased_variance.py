# SPDX-License-Identifier: Apache-2.0
"""Claim 8: the population's variance is m/(m-1) times that of batches.

Section 3.1: Var[x] = m/(m-1) E_B[var_B], an expectation over training batches
of m examples; moving averages only follow it. The values are the pre-activation
W u of the first hidden layer on training examples. One half of them gives the
estimates, the other half the true variance, so that no estimate is tested on
examples it has seen; means are over several random halvings.
"""

import keras
import numpy as np
from numpy.typing import NDArray

import keras_bn
from analysis import autodiff
from analysis.autodiff import Place
from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.figures import batch_sizes

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Number of updates, and momentum, of the moving averages.
UPDATES, MOMENTUM = 1000, 0.99
HALVINGS = 10
PAPER, PLAIN = "m/(m-1) * mean of variances", "mean of variances"
Array = NDArray[np.float32]
Errors = dict[str, NDArray[np.float64]]


def measure(setting: Setting) -> Result:
    """Mean and spread of the relative error of each estimate, by batch size."""
    found = errors(*halves(values(setting), setting.seed), setting.seed)
    sizes = np.array(SIZES)
    figures = {
        f"{name}, m = {size}: {what}": value
        for name, each in found.items()
        for size, row in zip(SIZES, each, strict=True)
        if size in (SIZES[0], 64, SIZES[-1])
        for what, value in (
            ("mean error", float(row.mean())),
            ("its standard error", standard_error(row)),
            ("rms error", float(np.sqrt(np.mean(row**2)))),
        )
    }
    for name, expected in ((PAPER, 0 / sizes), (PLAIN, -1 / sizes)):
        figures[f"{name}, any m: |mean error - expected|"] = scalars.largest(
            found[name].mean(1) - expected
        )
    once, moving = (
        figures[f"{name}, m = {SIZES[0]}: rms error"]
        for name in (PAPER, "moving average, unbiased")
    )
    return Result(
        figures=figures,
        note=f"at m = {SIZES[0]} the error of one pass is {once:.1%}, of a "
        f"moving average, which has seen fewer examples, {moving:.1%}",
        draw=lambda: batch_sizes.figure(SIZES, found),
    )


def standard_error(errors: NDArray[np.float64]) -> float:
    """Standard error of the mean of `[halvings * features]`, over halvings."""
    means = errors.reshape(HALVINGS, -1).mean(1)
    return float(means.std(ddof=1) / np.sqrt(HALVINGS))


def values(setting: Setting) -> Array:
    """W u `[N, 100]` of the trained network on its training examples."""
    recipe = training.recipe(setting)
    model = setting.runs.model(recipe)
    x_train = setting.runs.dataset(recipe.dataset).x_train
    place = Place(model.get_layer("hidden1_linear"), "outputs")
    return autodiff.capture(model, [place], x_train)()[place]


def halves(x: Array, seed: int) -> tuple[Array, NDArray[np.float64]]:
    """One half's values, and the other half's unbiased variance.

    Returns:
        `[N, halvings * features]`, N a multiple of every size, at most 20,480;
        and `[halvings * features]`.
    """
    rng = np.random.default_rng(seed)
    half = min(len(x) // 2 // SIZES[-1], 40) * SIZES[-1]
    orders = [rng.permutation(len(x)) for _ in range(HALVINGS)]
    ones = [x[order[:half]] for order in orders]
    others = [x[order[half:]].var(0, np.float64, ddof=1) for order in orders]
    return np.concatenate(ones, axis=1), np.concatenate(others)


def errors(x: Array, truth: NDArray[np.float64], seed: int) -> Errors:
    """By estimate: relative errors of the variance, `[sizes, features]`."""
    moving = np.array([moving_variances(x, m, seed) for m in SIZES])
    estimates = {
        PAPER: [population_variance(x, m) for m in SIZES],
        PLAIN: [mean_variance(x, m) for m in SIZES],
        "moving average, unbiased": moving[:, 0],
        "moving average, as in Keras": moving[:, 1],
    }
    return {
        name: np.array(each) / truth - 1 for name, each in estimates.items()
    }


def population_variance(x: Array, batch_size: int) -> NDArray[np.float64]:
    """Algorithm 2's unbiased variance `[features]`, in one pass over `x`."""
    layer = keras_bn.BatchNormalization()
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    keras_bn.estimate_population_statistics(
        model, x, batch_size=batch_size, verbose=0
    )
    return np.asarray(layer.moving_variance, np.float64)


def mean_variance(x: Array, batch_size: int) -> NDArray[np.float64]:
    """The mean `[features]` of the batches' biased variances."""
    batches = x.reshape(-1, batch_size, x.shape[1])
    return batches.var(1, np.float64).mean(0)


def moving_variances(
    x: Array, batch_size: int, seed: int
) -> NDArray[np.float64]:
    """Our layer's moving variances over random batches: unbiased and biased.

    They are computed with NumPy, which is faster for so many features; a test
    compares the layer with them.

    Returns:
        `[2, features]`.
    """
    rng = np.random.default_rng(seed)
    factors = np.array([[batch_size / (batch_size - 1)], [1.0]])
    moving = np.ones((2, x.shape[1]))
    for _ in range(UPDATES):
        batch = x[rng.integers(0, len(x), batch_size)]
        step = factors * batch.var(0, np.float64) - moving
        moving += (1 - MOMENTUM) * step
    return moving


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return (
        figures[f"{PAPER}, any m: |mean error - expected|"] < 0.02
        and figures[f"{PLAIN}, any m: |mean error - expected|"] < 0.02
        and figures[f"{PLAIN}, m = 2: mean error"] < -0.4
    )


CLAIM = Claim(
    number=8,
    title="inference: the unbiased variance of the training set",
    section="3.1",
    expected="m/(m-1) times the mean of batch variances is that of other data "
    "(mean error < 2%), m from 2 to 512; without the factor 1/m too small",
    measure=measure,
    holds=holds,
    trains=True,
)
