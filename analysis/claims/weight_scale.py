# SPDX-License-Identifier: Apache-2.0
"""Claim 12: the scale of W matters neither forward nor backward.

Section 3.3, for a > 0 and z = BN((aW)u): z is the same for every a; so is
dz/du; dz/d(aW) is 1/a of dz/dW. This is exact at eps = 0; at eps > 0 the layer
with aW equals the layer with W at eps / a^2. Larger weights get smaller
gradients, so that BN "will stabilize the parameter growth". That growth is
compared with the growth without BN, at the same learning rates.
"""

from typing import Any

import keras
import numpy as np

from analysis import structure
from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.pullback import Array, pull_back
from analysis.measures import gradients
from keras_bn import ops
from keras_bn.recipes import Recipe

FACTORS = tuple(10.0**power for power in range(-3, 4))
EPSILON = 1e-3
RATES = (0.1, 0.5, 3.0)


def measure(setting: Setting) -> Result:
    """The identities for a from 1e-3 to 1e3, and weights in training."""
    exact = np.array([deviations(a, 0.0, setting.seed) for a in FACTORS])
    scaled = np.array([deviations(a, EPSILON, setting.seed) for a in FACTORS])
    names = ("z", "dz/du", "a dz/d(aW)")
    figures = {
        **{
            f"change of {name}, eps = 0": float(value)
            for name, value in zip(names, exact.max(0), strict=True)
        },
        f"change of z, eps = 1e-3, a = {FACTORS[0]:g}": float(scaled[0, 0]),
        f"change of z, eps = 1e-3, a = {FACTORS[-1]:g}": float(scaled[-1, 0]),
    }
    for norm, side in training.SIDES.items():
        for rate in RATES:
            recipe = training.recipe(setting, norm=norm, learning_rate=rate)
            figures[f"growth of W at rate {rate:g}, {side}"] = growth(
                setting, recipe
            )
    return Result(
        figures=figures,
        note="eps breaks it where a^2 Var[Wu] comes near eps: small weights "
        "are not normalized to variance 1; W grows less with BN at rates "
        + ", ".join(f"{rate:g}" for rate in RATES if _less(figures, rate)),
    )


def deviations(a: float, epsilon: float, seed: int) -> tuple[float, ...]:
    """Largest change of z, dz/du and a dz/d(aW), over their largest entry."""
    rng = np.random.default_rng(seed)
    u, w = rng.normal(1, 1, (16, 6)), rng.normal(0, 1, (6, 4))
    dz = rng.normal(size=(16, 4))

    def parts(w: Array, factor: float) -> tuple[Array, ...]:
        return (
            np.asarray(layer(u, w, epsilon)),
            pull_back(lambda u, w: layer(u, w, epsilon), dz, u, w),
            factor * pull_back(lambda w, u: layer(u, w, epsilon), dz, w, u),
        )

    return tuple(
        scalars.relative_error(new, old)
        for new, old in zip(parts(a * w, a), parts(w, 1.0), strict=True)
    )


def layer(u: Any, w: Any, epsilon: float) -> Any:
    """BN(W u)."""
    return ops.batch_norm(keras.ops.matmul(u, w), axes=0, epsilon=epsilon)[0]


def growth(setting: Setting, recipe: Recipe) -> float:
    """Norm of trained over initial hidden weights, mean over layers."""
    first = setting.runs.untrained(recipe)
    last = setting.runs.model(recipe)
    names = [layer.name for layer in structure.linear_layers(first)][:-1]
    norms = [
        [gradients.norm([model.get_layer(name).kernel]) for name in names]
        for model in (first, last)
    ]
    return scalars.mean(np.divide(norms[1], norms[0]))


def _less(figures: Figures, rate: float) -> bool:
    ours, plain = (
        figures[f"growth of W at rate {rate:g}, {side}"]
        for side in training.SIDES.values()
    )
    return ours < plain


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return identities_hold(figures) and all(
        _less(figures, rate) for rate in RATES
    )


def identities_hold(figures: Figures) -> bool:
    """Whether the scale of W does not matter, which is proven."""
    scaled = "change of z, eps = 1e-3, a = "
    return (
        figures["change of z, eps = 0"] < 1e-9
        and figures["change of dz/du, eps = 0"] < 1e-9
        and figures["change of a dz/d(aW), eps = 0"] < 1e-9
        and figures[f"{scaled}{FACTORS[0]:g}"] > 0.1
        and figures[f"{scaled}{FACTORS[-1]:g}"] < 1e-3
    )


CLAIM = Claim(
    number=12,
    title="larger learning rates: the scale of W does not matter",
    section="3.3",
    expected="at eps = 0 z and dz/du do not depend on a, dz/d(aW) is 1/a "
    "(1e-9), a from 1e-3 to 1e3; at rates 0.1, 0.5 and 3 W grows less than "
    "without BN",
    measure=measure,
    holds=holds,
    not_seen=identities_hold,
    trains=True,
)
