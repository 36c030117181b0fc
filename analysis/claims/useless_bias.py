# SPDX-License-Identifier: Apache-2.0
"""Claim 3: normalize W u, and drop the bias."""

import numpy as np

from analysis import autodiff
from analysis.claims.result import (
    Result,
    Settings,
    array,
    draw,
    load,
    normalized,
    pulled_back,
    recipe,
    train,
)
from analysis.measures.moments import moments

TITLE = "normalize W u, not u; the bias is useless"
SECTION = "3.2"
EXPECTED = "output and gradient do not depend on b; W u is nearer to Gaussian"


def measure(settings: Settings) -> Result:
    """The effect of a bias; shapes of W u and of the sigmoids' outputs."""
    x = draw(settings, 64, 10)
    bias = np.linspace(-50, 50, 10)
    moved = array(normalized(x + bias)) - array(normalized(x))
    gradient = pulled_back(normalized, x, draw(settings, 64, 10) ** 2)
    model, _ = train(
        settings, recipe(settings, steps=settings.steps(2000, 50_000))
    )
    last = "hidden3"
    places = [
        autodiff.Place(model.get_layer(f"{last}_linear"), "outputs"),
        autodiff.Place(model.get_layer(last), "outputs"),
    ]
    probe = load(settings).x_test[:1000]
    before, after = autodiff.capture(model, places, probe)().values()
    skewness = [
        float(np.mean(np.abs(moments(v, per_unit=True).skewness)))
        for v in (before, after)
    ]
    measured = {
        "change of the output by b": np.abs(moved).max(),
        "gradient of b": np.abs(gradient.sum(0)).max(),
        "|skewness| of W u": skewness[0],
        "|skewness| of sigmoid(BN(W u))": skewness[1],
    }
    holds = (
        measured["change of the output by b"] < 1e-10
        and measured["gradient of b"] < 1e-10
        and skewness[0] < skewness[1]
    )
    return Result(
        measured,
        holds,
        "Skewness stands for the shape that mean and variance do not fix.",
    )
