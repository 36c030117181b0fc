# SPDX-License-Identifier: Apache-2.0
"""Claim 16: with batch normalization, a network learns much faster.

Section 4.1, Fig. 1(a). The paper states neither optimizer nor learning rate;
0.1 with initial weights of width 0.05 comes close to its curves.
"""

import itertools
import math

from matplotlib.figure import Figure

from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Result, Setting
from analysis.claims.runs import run_name
from analysis.figures import seeds
from analysis.table import Table
from keras_bn.recipes import Recipe

RATES = (0.1, 0.5)
#: Test accuracies to reach, on MNIST and on digits.
THRESHOLDS = {"mnist": (0.90, 0.95), "digits": (0.80, 0.85)}
Groups = dict[tuple[str, float], list[Recipe]]


def groups(setting: Setting) -> Groups:
    """Recipes of all seeds by norm and rate."""
    norms, rates, count = (
        (("batch", "keras", "none"), RATES, 5)
        if setting.full
        else (("batch", "none"), RATES[:1], 1)
    )
    return {
        (norm, rate): training.over_seeds(
            setting, count, norm=norm, learning_rate=rate
        )
        for norm, rate in itertools.product(norms, rates)
    }


def measure(setting: Setting) -> Result:
    """Means over the seeds of steps to two accuracies, and of the last."""
    found = groups(setting)
    table = setting.runs.table(itertools.chain(*found.values()))
    figures: dict[str, float] = {}
    thresholds = THRESHOLDS[found["batch", RATES[0]][0].dataset]
    for (norm, rate), recipes in found.items():
        name = f"{norm}, rate {rate:g}"
        for threshold in thresholds:
            figures[f"{name}: steps to {threshold:.0%}"] = scalars.mean(
                training.steps_to(table, run, threshold)
                for run in names(recipes)
            )
        figures[f"{name}: accuracy at the end"] = scalars.mean(
            training.last_accuracy(table, run) for run in names(recipes)
        )
    return Result(
        figures=figures,
        holds=all(_in_half_the_steps(figures, each) for each in thresholds),
        note="the gap at the end is small, and a larger rate narrows the one "
        "before it"
        if setting.full
        else "",
        draw=lambda: draw(table, found),
    )


def _in_half_the_steps(figures: dict[str, float], threshold: float) -> bool:
    """Whether BN gets to the accuracy, in at most half the others' steps."""
    with_bn, without = (
        figures[f"{norm}, rate {RATES[0]:g}: steps to {threshold:.0%}"]
        for norm in ("batch", "none")
    )
    return math.isfinite(with_bn) and with_bn <= without / 2


def names(recipes: list[Recipe]) -> list[str]:
    """The names of the recipes' runs."""
    return [run_name(recipe) for recipe in recipes]


def draw(table: Table, found: Groups) -> Figure:
    """Test accuracy over steps, a panel per rate, a band over seeds."""
    rates = dict.fromkeys(rate for _, rate in found)
    return seeds.figure(
        table,
        {
            f"learning rate {rate:g}": {
                norm: names(recipes)
                for (norm, other), recipes in found.items()
                if other == rate
            }
            for rate in rates
        },
    )


CLAIM = Claim(
    number=16,
    title="learning is much faster",
    section="4.1",
    expected="at rate 0.1, with BN at most half the steps to 90% and 95% "
    "test accuracy on MNIST (80% and 85% on digits), mean over seeds",
    measure=measure,
    trains=True,
)
