# SPDX-License-Identifier: Apache-2.0
"""Claim 10: a network is tied to its training statistics."""

from typing import Any

import numpy as np

import keras_bn
from analysis.claims.result import Result, Settings, load, recipe, train

TITLE = "a network trained with BN is tied to its training statistics"
SECTION = "3.1; notes 8 and 10"
EXPECTED = "on other data, statistics of these give back much of the accuracy"

DOMAINS = {
    "inverted": lambda x, _: 1 - x,
    "low contrast": lambda x, _: 0.4 + 0.2 * x,
    "noisy": lambda x, rng: x + rng.normal(0, 0.5, x.shape),
}


def measure(settings: Settings) -> Result:
    """Accuracies with statistics of the source, and of the target."""
    dataset = load(settings)
    model, _ = train(
        settings, recipe(settings, steps=settings.steps(2000, 50_000))
    )
    before = model.get_weights()
    measured = {"source": _accuracy(model, dataset.x_test, dataset.y_test)}
    for name, change in DOMAINS.items():
        rng = np.random.default_rng(settings.seed)
        x_train = change(dataset.x_train, rng).astype(np.float32)
        x_test = change(dataset.x_test, rng).astype(np.float32)
        kept = _accuracy(model, x_test, dataset.y_test)
        keras_bn.estimate_population_statistics(
            model, x_train, batch_size=60, pooling="exact", verbose=0
        )
        anew = _accuracy(model, x_test, dataset.y_test)
        model.set_weights(before)
        measured |= {f"{name}: kept": kept, f"{name}: anew": anew}
    gains = [
        measured[f"{name}: anew"] - measured[f"{name}: kept"]
        for name in DOMAINS
    ]
    return Result(
        measured,
        min(gains) > -0.05 and max(gains) > 0.2,
        "An affine change of the input is undone by the first layer's "
        "statistics, but for the sign of an inversion.",
    )


def _accuracy(model: Any, x: Any, y: Any) -> float:
    logits = model.predict(x, batch_size=500, verbose=0)
    return float(np.mean(logits.argmax(-1) == y))
