# SPDX-License-Identifier: Apache-2.0
"""Claim 17: less need for dropout and for careful initialization."""

from analysis.claims.result import Result, Settings, recipe, train
from keras_bn.recipes import Recipe

TITLE = "less need for dropout, for careful initialization"
SECTION = "1, 4.2"
EXPECTED = "accuracy depends less on sigma with BN; dropout is no gain with it"


def measure(settings: Settings) -> Result:
    """Test accuracies over sigma of the initial weights, and dropout."""
    steps = settings.steps(600, 10_000)
    sigmas = (1e-3, 1e-2, 0.05, 0.2, 1.0) if settings.full else (1e-3, 0.05, 1)
    rates = (0.0, 0.1, 0.3, 0.5) if settings.full else (0.0, 0.3)
    measured = {}
    for norm, label in (("batch", "with BN"), ("none", "without")):
        for sigma in sigmas:
            chosen = recipe(
                settings, steps=steps, norm=norm, weight_stddev=float(sigma)
            )
            measured[f"{label}: sigma {sigma:g}"] = _accuracy(settings, chosen)
        for rate in rates[1:]:
            chosen = recipe(settings, steps=steps, norm=norm, dropout=rate)
            measured[f"{label}: dropout {rate:g}"] = _accuracy(settings, chosen)
    spread = {
        label: max(values) - min(values)
        for label in ("with BN", "without")
        if (values := [measured[f"{label}: sigma {s:g}"] for s in sigmas])
    }
    dropout = max(measured[f"with BN: dropout {rate:g}"] for rate in rates[1:])
    holds = (
        spread["with BN"] < spread["without"]
        and dropout <= measured["with BN: sigma 0.05"] + 0.01
    )
    return Result(
        {
            **measured,
            **{f"{label}: spread over sigma": s for label, s in spread.items()},
        },
        holds,
    )


def _accuracy(settings: Settings, chosen: Recipe) -> float:
    _, result = train(settings, chosen)
    return float(result.final["val_accuracy"])
