# SPDX-License-Identifier: Apache-2.0
"""Claim 3: normalize W u, not u; then a bias is useless.

Section 3.2. Whatever b is, BN(W u + b) = BN(W u), and beta does its work. W u
is normalized, not u: u is the output of a nonlinearity, "the shape of its
distribution is likely to change during training", which two moments do not
fix; W u is "more likely to have a symmetric, non-sparse distribution". The
skewness of each says how far from symmetric it is.
"""

from typing import Any

import keras
import numpy as np

from analysis import autodiff
from analysis.autodiff import Place
from analysis.claims import training
from analysis.claims.claim import Claim, Result, Setting
from analysis.measures.moments import moments
from keras_bn import ops

EPSILON = 1e-3


def measure(setting: Setting) -> Result:
    """What b does, and the shapes of u and W u before and after training."""
    recipe = training.recipe(setting)
    inputs = setting.runs.dataset(recipe.dataset).x_test
    first = skewness(setting.runs.untrained(recipe), inputs)
    last = skewness(setting.runs.model(recipe), inputs)
    figures = {
        **effect_of_bias(setting.seed),
        "|skewness| of u, untrained": first[0],
        "|skewness| of u, trained": last[0],
        "|skewness| of W u, untrained": first[1],
        "|skewness| of W u, trained": last[1],
    }
    return Result(
        figures=figures,
        holds=figures["change of BN(Wu + b) by b"] < 1e-12
        and figures["|dl/db| over |dl/dbeta|"] < 1e-12
        and figures["|dl/dbeta - sum of dl/dy|"] < 1e-12
        and last[1] < last[0],
        note="untrained, the sigmoids are near linear and u is as symmetric "
        "as W u; training skews u more",
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

    db = _pull(layer, dy, b, u, w, beta)
    dbeta = _pull(of_beta, dy, beta, u, w, b)
    change = np.asarray(layer(b, u, w, beta) - layer(0 * b, u, w, beta))
    return {
        "change of BN(Wu + b) by b": float(np.abs(change).max()),
        "|dl/db| over |dl/dbeta|": float(
            np.linalg.norm(db) / np.linalg.norm(dbeta)
        ),
        "|dl/dbeta - sum of dl/dy|": float(np.abs(dbeta - dy.sum(0)).max()),
    }


def skewness(model: keras.Model, inputs: Any) -> tuple[float, float]:
    """Mean of |skewness| over the units of u, and of W u, in hidden3."""
    linear = model.get_layer("hidden3_linear")
    places = [Place(linear, "inputs"), Place(linear, "outputs")]
    found = autodiff.capture(model, places, inputs)()
    u, wu = (
        float(np.abs(moments(found[place], per_unit=True).skewness).mean())
        for place in places
    )
    return u, wu


def _pull(function: Any, dy: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    tensors = map(autodiff.tensor, inputs)
    return autodiff.Products(function).backward(dy, *tensors)


CLAIM = Claim(
    number=3,
    title="normalize W u, not u; a bias before it is useless",
    section="3.2",
    expected="BN(Wu + b) and the loss do not depend on b (1e-12), beta takes "
    "its gradient; trained, W u is more symmetric than u",
    measure=measure,
    trains=True,
)
