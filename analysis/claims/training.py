# SPDX-License-Identifier: Apache-2.0
"""The networks that claims train: that of Fig. 1, and its variations."""

from typing import Any

import keras
import numpy as np

from analysis.claims.claim import Setting
from analysis.table import Table
from keras_bn.recipes import RECIPES, Recipe

NAMES = {"batch": "fig1_bn", "none": "fig1_baseline"}
#: Names, in figures, of the two sides that are compared.
SIDES = {"batch": "with BN", "none": "without BN"}


def recipe(
    setting: Setting, *, norm: str = "batch", seed: int = 0, **changes: Any
) -> Recipe:
    """The network of Fig. 1 at the setting's scale.

    Args:
        setting: MNIST and 50,000 steps if full, else digits and 15,000.
        norm: As in recipes.
        seed: Added to the setting's seed.
        **changes: Values of further fields.
    """
    scale: dict[str, Any] = (
        {"dataset": "mnist", "steps": 50_000, "evaluate_every": 250}
        if setting.full
        else {"dataset": "digits", "steps": 15_000, "evaluate_every": 100}
    )
    return RECIPES[NAMES[norm]].replace(
        **{"seed": setting.seed + seed, "measures": (), **scale, **changes}
    )


def steps_to(table: Table, run: str, accuracy: float) -> float:
    """First evaluated step that reaches an accuracy; infinity if none does."""
    step = table.first_step(run, accuracy)
    return np.inf if step is None else float(step)


def last_accuracy(table: Table, run: str) -> float:
    """A run's accuracy on the test examples at its end."""
    return float(table.series(run, "validation", "accuracy")[1][-1])


def accuracy(model: keras.Model, x: Any, y: Any) -> float:
    """Share of inputs `[N, ...]` whose label `[N]` has the largest logit."""
    logits = model.predict(x, batch_size=500, verbose=0)
    return float(np.mean(logits.argmax(1) == y))


def over_seeds(setting: Setting, count: int, **changes: Any) -> list[Recipe]:
    """The same recipe with `count` different seeds."""
    return [recipe(setting, seed=seed, **changes) for seed in range(count)]
