# SPDX-License-Identifier: Apache-2.0
"""Claim 3: normalize W u, not u; then a bias is useless.

Section 3.2. For any b, BN(W u + b) = BN(W u), and beta takes the place of b.
W u is normalized rather than u, because u is the output of a nonlinearity: "the
shape of its distribution is likely to change during training, and constraining
its first and second moments would not eliminate the covariate shift". Shape
here means a unit's distribution standardized to mean 0 and standard deviation
1; its change is the mean distance between the quantiles before training and
those after it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from analysis import autodiff
from analysis.autodiff import Place
from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.pullback import Array, pull_back
from analysis.measures.moments import moments
from keras_bn import ops

EPSILON = 1e-3
BLOCKS = ("hidden2", "hidden3")
QUANTILES = np.linspace(0.02, 0.98, 49)


def measure(setting: Setting) -> Result:
    """What b does, and how training changes the shapes of u and W u."""
    figures = effect_of_bias(setting.seed)
    ratios = []
    for norm, side in training.SIDES.items():
        recipe = training.recipe(setting, norm=norm)
        inputs = setting.runs.dataset(recipe.dataset).x_test
        first = quantiles(setting.runs.untrained(recipe), inputs)
        last = quantiles(setting.runs.model(recipe), inputs)
        changes = np.abs(last - first).mean(axis=(2, 3))
        rows = [*changes, changes.mean(axis=0)]
        for place, (u, wu) in zip([*BLOCKS, "mean"], rows, strict=True):
            figures[f"change of shape of u, {place}, {side}"] = u
            figures[f"change of shape of W u, {place}, {side}"] = wu
            ratios.append(f"{u / wu:.1f} ({place}, {side})")
    return Result(
        figures=figures,
        note=f"change of u's shape over W u's: {', '.join(ratios)}",
    )


def effect_of_bias(seed: int) -> dict[str, float]:
    """What b changes, and the gradients of b and of beta."""
    rng = np.random.default_rng(seed)
    u, w = rng.normal(1, 1, (60, 8)), rng.normal(size=(8, 5))
    b, beta = rng.normal(0, 3, 5), rng.normal(size=5)
    dy = rng.normal(1, 1, (60, 5))

    def layer(b: Any, u: Any, w: Any, beta: Any) -> Any:
        x = keras.ops.matmul(u, w) + b
        return ops.batch_norm(x, None, beta, axes=0, epsilon=EPSILON)[0]

    def of_beta(beta: Any, u: Any, w: Any, b: Any) -> Any:
        return layer(b, u, w, beta)

    db = pull_back(layer, dy, b, u, w, beta)
    dbeta = pull_back(of_beta, dy, beta, u, w, b)
    change = layer(b, u, w, beta) - layer(0 * b, u, w, beta)
    return {
        "change of BN(Wu + b) by b": scalars.largest(change),
        "|dl/db| over |dl/dbeta|": float(
            np.linalg.norm(db) / np.linalg.norm(dbeta)
        ),
        "|dl/dbeta - sum of dl/dy|": scalars.largest(dbeta - dy.sum(0)),
    }


def quantiles(model: keras.Model, inputs: Any) -> Array:
    """Quantiles of u and W u, each unit standardized.

    Returns:
        `[layers, 2, quantiles, units]`.
    """
    return np.array(
        [
            [standardized_quantiles(values) for values in found]
            for found in _captured(model, BLOCKS, inputs)
        ]
    )


def standardized_quantiles(values: Array) -> Array:
    """Quantiles of each unit of `[N, units]`, standardized first."""
    found = moments(values, per_unit=True)
    return np.quantile((values - found.mean) / found.std, QUANTILES, axis=0)


def _captured(
    model: keras.Model, blocks: Sequence[str], inputs: Any
) -> Iterator[tuple[Array, Array]]:
    for block in blocks:
        linear = model.get_layer(f"{block}_linear")
        u, wu = Place(linear, "inputs"), Place(linear, "outputs")
        found = autodiff.capture(model, [u, wu], inputs)()
        yield found[u].astype(np.float64), found[wu].astype(np.float64)


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return (
        figures["change of BN(Wu + b) by b"] < 1e-12
        and figures["|dl/db| over |dl/dbeta|"] < 1e-12
        and figures["|dl/dbeta - sum of dl/dy|"] < 1e-12
        and all(
            figures[f"change of shape of u, mean, {side}"]
            > figures[f"change of shape of W u, mean, {side}"]
            for side in training.SIDES.values()
        )
    )


CLAIM = Claim(
    number=3,
    title="normalize W u, not u; a bias before it is useless",
    section="3.2",
    expected="BN(Wu + b) does not depend on b, whose gradient is 0; beta's is "
    "the sum of dl/dy (1e-12); training changes the shape of u more than that "
    "of W u, mean over the layers, with BN and without",
    measure=measure,
    holds=holds,
    trains=True,
)
