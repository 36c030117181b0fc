# SPDX-License-Identifier: Apache-2.0
"""Claim 15: with BN the moments of inputs drift less; do gradients turn less?

The paper defines the shift as the change of the distribution of a layer's
inputs during training. Santurkar et al. 2018 (arXiv 1805.11604) instead measure
how far a layer's gradient turns when the layers before it take their step, and
find that it turns no less with BN. Both are measured at the same steps, in two
pairs of networks: those of Fig. 1, until the one without BN has left its
plateau and learnt; and in their first steps, networks with wider initial
weights and a larger learning rate, both of which learn at once.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from analysis import tags
from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.runs import run_name
from analysis.table import Table

AT_ONCE = {"weight_stddev": 0.2, "learning_rate": 0.5}
LAYERS = ("hidden2_linear", "hidden3_linear", "logits")
STATISTICS = {
    "mean_drift": "drift of input means per step",
    "std_drift": "drift of input deviations per step",
    "distance": "relative change of the gradient",
    "cosine": "cosine of the gradients",
}
#: Changes to the recipe, at full and at small scale.
NETWORKS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Fig. 1": (
        {"steps": 20_000, "measure_every": 200},
        {"steps": 12_000, "measure_every": 400},
    ),
    "learning at once": (
        {**AT_ONCE, "steps": 2_000, "measure_every": 20},
        {**AT_ONCE, "steps": 500, "measure_every": 20},
    ),
}


def measure(setting: Setting) -> Result:
    """Means over layers, steps and seeds, with and without BN."""
    figures: dict[str, float] = {}
    for name, norm in itertools.product(NETWORKS, training.SIDES):
        full, small = NETWORKS[name]
        recipes = training.over_seeds(
            setting,
            3 if setting.full else 1,
            norm=norm,
            measures=("covariate_shift",),
            **(full if setting.full else small),
        )
        table = setting.runs.table(recipes)
        for statistic, title in STATISTICS.items():
            figures[f"{name}: {title}, {training.SIDES[norm]}"] = scalars.mean(
                value
                for recipe in recipes
                for value in values(table, run_name(recipe), statistic)
            )
    return Result(
        figures=figures,
        note="1805.11604 found that gradients turn no less with BN, in deeper "
        "networks; here: "
        + ", ".join(f"{_turns(figures, name)} ({name})" for name in NETWORKS),
    )


def _turns(figures: Figures, name: str) -> str:
    ours, plain = (
        figures[f"{name}: {STATISTICS['cosine']}, {side}"]
        for side in training.SIDES.values()
    )
    return "less" if ours > plain else "more"


def values(table: Table, run: str, statistic: str) -> Iterator[float]:
    """A statistic's mean over the steps, for each layer."""
    for layer in LAYERS:
        tag = tags.tag("covariate_shift", layer, statistic)
        yield float(np.mean(table.series(run, "analysis", tag)[1]))


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return all(
        figures[f"{name}: {STATISTICS[drift]}, with BN"]
        < figures[f"{name}: {STATISTICS[drift]}, without BN"]
        for name in NETWORKS
        for drift in ("mean_drift", "std_drift")
    )


CLAIM = Claim(
    number=15,
    title="internal covariate shift: the moments of inputs drift less",
    section="2",
    expected="means and deviations of layers' inputs drift less per step with "
    "BN, over 20,000 steps of networks as in Fig. 1 (width .05, rate .1; small "
    "12,000) and 2,000 of such as learn at once (.2, .5; small 500); how the "
    "gradient turns is reported, whatever it is",
    measure=measure,
    holds=holds,
    trains=True,
)
