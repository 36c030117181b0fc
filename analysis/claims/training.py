# SPDX-License-Identifier: Apache-2.0
"""The networks that claims train: that of Fig. 1, and its variations."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis.claims.claim import Setting
from analysis.table import Table
from keras_bn.recipes import RECIPES, Recipe

NAMES = {"batch": "fig1_bn", "none": "fig1_baseline", "keras": "fig1_keras"}
#: What the runs with the first seed record, where weights and dropout are
#: those of Fig. 1.
MEASURES = ("percentiles", "jacobian", "gradients", "covariate_shift")


def recipe(
    setting: Setting, *, norm: str = "batch", seed: int = 0, **changes: Any
) -> Recipe:
    """The network of Fig. 1 at the setting's scale.

    Args:
        setting: MNIST and 50,000 steps if full, else digits and 15,000.
        norm: As of recipes.
        seed: Counted from the setting's.
        **changes: Of further fields.
    """
    swept = changes.keys() & {"weight_stddev", "dropout"}
    scale: dict[str, Any] = (
        {"dataset": "mnist", "evaluate_every": 250, "measure_every": 1_000}
        if setting.full
        else {"steps": 15_000, "evaluate_every": 100, "measure_every": 1_500}
    )
    return RECIPES[NAMES[norm]].replace(
        seed=setting.seed + seed,
        measures=() if seed or swept or norm == "keras" else MEASURES,
        **{**scale, **changes},
    )


def pair(setting: Setting) -> tuple[Recipe, Recipe]:
    """With and without BN."""
    return recipe(setting), recipe(setting, norm="none")


def steps_to(table: Table, run: str, accuracy: float) -> float:
    """First evaluated step at which a run is that good; infinity if none."""
    steps, values = table.series(run, "validation", "accuracy")
    reached = steps[values >= accuracy]
    return float(reached[0]) if len(reached) else np.inf


def last_accuracy(table: Table, run: str) -> float:
    """On the test examples, at the end."""
    return float(table.series(run, "validation", "accuracy")[1][-1])


def mean(values: Iterable[float]) -> float:
    """As a plain number."""
    return float(np.mean(list(values)))


def over_seeds(
    setting: Setting, seeds: int, **changes: Any
) -> Sequence[Recipe]:
    """The same recipe from each seed."""
    return [recipe(setting, seed=seed, **changes) for seed in range(seeds)]
