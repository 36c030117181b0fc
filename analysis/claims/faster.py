# SPDX-License-Identifier: Apache-2.0
"""Claim 16: learning is much faster."""

import dataclasses

import numpy as np

from analysis.claims.result import (
    Result,
    Settings,
    first_step_at,
    recipe,
    train,
)

TITLE = "learning is much faster with BN"
SECTION = "4.1, Fig. 1(a)"
EXPECTED = "at most half the steps to 90% test accuracy"


def measure(settings: Settings) -> Result:
    """Means over seeds of steps to 90% and 95%, and of the end."""
    steps = settings.steps(4000, 50_000)
    measured = {}
    for norm, label in (("batch", "with BN"), ("none", "without")):
        results = [
            train(
                dataclasses.replace(settings, seed=seed),
                recipe(
                    settings,
                    steps=steps,
                    norm=norm,
                    seed=seed,
                    evaluate_every=100,
                ),
            )[1]
            for seed in settings.seeds
        ]
        for goal in (0.9, 0.95):
            reached = [first_step_at(result, goal) for result in results]
            measured[f"{label}: steps to {goal:.0%}"] = float(np.mean(reached))
        measured[f"{label}: at the end"] = float(
            np.mean([result.final["val_accuracy"] for result in results])
        )
    faster = measured["with BN: steps to 90%"] <= (
        measured["without: steps to 90%"] / 2
    )
    return Result(measured, faster)
