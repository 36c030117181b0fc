# SPDX-License-Identifier: Apache-2.0
"""Claim 15: less internal covariate shift? By its moments; less clearly else.

The paper's shift is the change of the distribution of a layer's inputs by
training. Santurkar et al. 2018 (arXiv 1805.11604) measure instead how a layer's
gradient turns when the layers before it make their step, and find no less of it
with BN. Both are measured at the same steps, in networks whose initial weights
are wide enough (0.2) for both to learn from the first step on.
"""

from collections.abc import Iterator

import numpy as np

from analysis import tags
from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Result, Setting
from analysis.claims.runs import run_name
from analysis.table import Table

LAYERS = ("hidden2_linear", "hidden3_linear", "logits")
STATISTICS = {
    "mean_drift": "drift of input means per step",
    "std_drift": "drift of input deviations per step",
    "distance": "change of the gradient",
    "cosine": "cosine of the gradients",
}


def measure(setting: Setting) -> Result:
    """Means over layers, steps and seeds, with and without BN."""
    figures: dict[str, float] = {}
    for norm, name in (("batch", "with BN"), ("none", "without BN")):
        recipes = training.over_seeds(
            setting,
            3 if setting.full else 1,
            norm=norm,
            weight_stddev=0.2,
            learning_rate=0.5,
            steps=2_000 if setting.full else 500,
            measures=("covariate_shift",),
            measure_every=20,
        )
        table = setting.runs.table(recipes)
        for statistic, title in STATISTICS.items():
            figures[f"{title}, {name}"] = scalars.mean(
                value
                for recipe in recipes
                for value in values(table, run_name(recipe), statistic)
            )
    turns_less = (
        figures["cosine of the gradients, with BN"]
        > figures["cosine of the gradients, without BN"]
    )
    return Result(
        figures=figures,
        holds=all(
            figures[f"{STATISTICS[drift]}, with BN"]
            < figures[f"{STATISTICS[drift]}, without BN"]
            for drift in ("mean_drift", "std_drift")
        ),
        note="1805.11604 found that gradients turn no less with BN, in deeper "
        f"networks; in this one they turn {'less' if turns_less else 'more'}",
    )


def values(table: Table, run: str, statistic: str) -> Iterator[float]:
    """A statistic's mean over the steps, for each layer."""
    for layer in LAYERS:
        tag = tags.tag("covariate_shift", layer, statistic)
        yield float(np.mean(table.series(run, "analysis", tag)[1]))


CLAIM = Claim(
    number=15,
    title="internal covariate shift: the moments of inputs drift less",
    section="2",
    expected="means and deviations of layers' inputs drift less per step with "
    "BN; how the gradient turns is reported, whatever it is",
    measure=measure,
    trains=True,
)
