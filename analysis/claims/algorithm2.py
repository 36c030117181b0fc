# SPDX-License-Identifier: Apache-2.0
"""Claim 9: train, freeze, fold."""

import numpy as np

import keras_bn
from analysis.claims.result import Result, Settings, load, recipe, train
from keras_bn import structure

TITLE = "Algorithm 2 as a whole: the frozen network is a linear map per layer"
SECTION = "3.1, Algorithm 2"
EXPECTED = "the folded network gives the same predictions, without BN"


def measure(settings: Settings) -> Result:
    """Difference of logits; BN layers before and after; accuracies."""
    dataset = load(settings)
    model, _ = train(
        settings, recipe(settings, steps=settings.steps(2000, 50_000))
    )
    before = model.get_weights()
    keras_bn.estimate_population_statistics(
        model, dataset.x_train, batch_size=60, verbose=0
    )
    folded = keras_bn.fold(model)
    logits, other = (
        m.predict(dataset.x_test, batch_size=500, verbose=0)
        for m in (model, folded)
    )
    model.set_weights(before)  # others look at this model too
    measured = {
        "relative difference": float(
            np.abs(logits - other).max() / np.abs(logits).max()
        ),
        "BN layers": float(len(structure.batch_normalizations(model))),
        "BN layers, folded": float(len(structure.batch_normalizations(folded))),
        "test accuracy, folded": float(
            np.mean(other.argmax(-1) == dataset.y_test)
        ),
    }
    holds = (
        measured["relative difference"] < 1e-5
        and measured["BN layers, folded"] == 0
    )
    return Result(measured, holds)
