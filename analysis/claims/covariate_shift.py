# SPDX-License-Identifier: Apache-2.0
"""Claim 15: internal covariate shift, the paper's way and another."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from analysis import autodiff, probes
from analysis.claims.result import Result, Settings, load, recipe, train
from analysis.measures import covariate_shift

TITLE = "BN reduces internal covariate shift"
SECTION = "1, 2"
EXPECTED = "moments of the activations' inputs drift less per step with BN"


def measure(settings: Settings) -> Result:
    """Drift of moments; how the gradient turns; with and without BN."""
    dataset = load(settings)
    steps = settings.steps(500, 10_000)
    measured = {}
    for norm, label in (("batch", "with BN"), ("none", "without")):
        model, _ = train(settings, recipe(settings, steps=steps, norm=norm))
        before = [np.asarray(w) for w in model.trainable_variables]
        x, y = dataset.x_train[:256], dataset.y_train[:256]
        gradient = autodiff.loss_and_gradients(model, x, y)
        after = [
            w - 0.1 * g
            for w, g in zip(before, gradient(before)[1], strict=True)
        ]
        places = [
            autodiff.Place(block.layers[-1], "inputs")
            for block in probes.blocks(model)
        ]
        capture = autodiff.capture(model, places, x, training=True)
        first = capture()
        _assign(model, after)
        second = capture()
        _assign(model, before)
        drifts = [
            covariate_shift.moment_drift(first[p], second[p]) for p in places
        ]
        measured[f"{label}: drift of means"] = float(
            np.mean([d.mean for d in drifts])
        )
        index = {id(v): i for i, v in enumerate(model.trainable_variables)}
        layers = [
            [index[id(v)] for v in block.layers[0].trainable_variables]
            for block in probes.linear_layers(model)
        ]
        shifts = covariate_shift.gradient_shifts(
            partial(_gradients, gradient),
            layers,
            before,
            after,
        )
        cosines = [s.cosine for s in shifts if np.isfinite(s.cosine)]
        measured[f"{label}: cosine of gradients"] = float(np.mean(cosines[1:]))
    less = (
        measured["with BN: drift of means"]
        < (measured["without: drift of means"])
    )
    return Result(
        measured,
        less,
        "Partly: by the gradients (arXiv 1805.11604), which is what counts for "
        "learning, BN shifts "
        + (
            "no less"
            if measured["with BN: cosine of gradients"]
            <= measured["without: cosine of gradients"]
            else "less here"
        )
        + " (a cosine of 1 is no shift).",
    )


def _gradients(
    loss_and_gradients: Callable[[Any], tuple[float, Any]], weights: Any
) -> Any:
    return loss_and_gradients(weights)[1]


def _assign(model: keras.Model, weights: Any) -> None:
    variables = model.trainable_variables
    for variable, value in zip(variables, weights, strict=True):
        variable.assign(value)
