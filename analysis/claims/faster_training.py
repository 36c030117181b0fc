# SPDX-License-Identifier: Apache-2.0
"""Claim 16: with batch normalization, a network learns much faster.

Section 4.1, Fig. 1(a). The paper states neither optimizer nor learning rate;
0.1 with initial weights of width 0.05 comes close to its curves. That rate is
the best for neither network, so each is also measured at the best of several.
"""

import itertools
import math
from collections.abc import Iterator

from matplotlib.figure import Figure

from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.runs import run_name
from analysis.figures import seeds
from analysis.table import Table
from keras_bn.recipes import Recipe

RATES = (0.1, 0.5, 3.0, 8.0)
#: Test accuracies to reach, on MNIST and on digits.
THRESHOLDS = {"mnist": (0.90, 0.95), "digits": (0.80, 0.85)}
#: The verdict compares these figures with the same ones without BN.
COMPARED = ("rate 0.1, with BN: steps", "best rate, with BN: steps")
Groups = dict[tuple[str, float], list[Recipe]]


def groups(setting: Setting) -> Groups:
    """Recipes of all seeds by norm and rate."""
    return {
        (norm, rate): training.over_seeds(
            setting,
            3 if setting.full else 1,
            norm=norm,
            learning_rate=rate,
        )
        for norm, rate in itertools.product(training.SIDES, RATES)
    }


def measure(setting: Setting) -> Result:
    """Means over the seeds of steps to two accuracies, and of the last."""
    found = groups(setting)
    table = setting.runs.table(itertools.chain(*found.values()))
    figures: dict[str, float] = {}
    thresholds = THRESHOLDS[found["batch", RATES[0]][0].dataset]
    for (norm, rate), recipes in found.items():
        name = f"rate {rate:g}, {training.SIDES[norm]}"
        for threshold in thresholds:
            figures[f"{name}: steps to {threshold:.0%}"] = scalars.mean(
                training.steps_to(table, run, threshold)
                for run in names(recipes)
            )
        figures[f"{name}: accuracy at the end"] = scalars.mean(
            training.last_accuracy(table, run) for run in names(recipes)
        )
    for side, threshold in itertools.product(
        training.SIDES.values(), thresholds
    ):
        steps = f"{side}: steps to {threshold:.0%}"
        figures[f"best rate, {steps}"] = min(
            figures[f"rate {rate:g}, {steps}"] for rate in RATES
        )
    return Result(
        figures=figures,
        note="steps with BN over those without: "
        + ", ".join(
            f"{ours / plain:.2f} ({name})"
            for name, ours, plain in _compared(figures)
        ),
        draw=lambda: draw(table, found),
    )


def _compared(figures: Figures) -> Iterator[tuple[str, float, float]]:
    """The compared figures: name, steps with BN, and steps without BN."""
    for name, steps in figures.items():
        if name.startswith(COMPARED):
            without = figures[name.replace("with BN", "without BN")]
            yield name.replace(", with BN", ""), steps, without


def names(recipes: list[Recipe]) -> list[str]:
    """The names of the recipes' runs."""
    return [run_name(recipe) for recipe in recipes]


def draw(table: Table, found: Groups) -> Figure:
    """Test accuracy over steps, a panel per rate, a band over seeds."""
    return seeds.figure(
        table,
        {
            f"learning rate {rate:g}": {
                norm: names(found[norm, rate]) for norm in training.SIDES
            }
            for rate in RATES
        },
    )


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return _as_fast(figures, "", share=1 / 2)


def holds_at_one_rate(figures: Figures) -> bool:
    """Whether they are at the paper's one rate, and BN is faster at any."""
    return _as_fast(figures, "rate", share=1 / 2) and _as_fast(
        figures, "best rate", share=1
    )


def _as_fast(figures: Figures, start: str, *, share: float) -> bool:
    return all(
        math.isfinite(ours) and ours <= share * plain
        for name, ours, plain in _compared(figures)
        if name.startswith(start)
    )


CLAIM = Claim(
    number=16,
    title="learning is much faster",
    section="4.1",
    expected="at rate 0.1, and at the best rate of each, with BN at most half "
    "the steps to 90% and 95% test accuracy on MNIST (80% and 85% on digits), "
    "mean over seeds",
    measure=measure,
    holds=holds,
    not_seen=holds_at_one_rate,
    trains=True,
)
