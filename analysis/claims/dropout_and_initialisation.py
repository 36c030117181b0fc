# SPDX-License-Identifier: Apache-2.0
"""Claim 17: less need for careful initial weights, and for dropout.

Test accuracy of the MLP over the width of its initial weights, after few steps,
and over the share that dropout drops, at the end, with and without BN. The
paper reports both for Inception (sections 1 and 4.2.1).
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.claims import training
from analysis.claims.claim import Claim, Result, Setting
from analysis.claims.runs import run_name
from analysis.figures import sweeps

NORMS = ("batch", "none")
Curves = dict[str, NDArray[np.float64]]


def widths(setting: Setting) -> Sequence[float]:
    """Standard deviations of the initial weights."""
    return (0.001, 0.01, 0.05, 0.1, 0.3, 1.0) if setting.full else (0.01, 1.0)


def shares(setting: Setting) -> Sequence[float]:
    """Shares that are dropped after each hidden layer."""
    return (0.0, 0.1, 0.25, 0.5) if setting.full else (0.0, 0.5)


def over_widths(setting: Setting) -> Curves:
    """By norm: accuracies `[widths, seeds]` after 10,000 steps."""
    steps = 10_000 if setting.full else 3_000
    return _sweep(setting, "weight_stddev", widths(setting), steps=steps)


def over_shares(setting: Setting) -> Curves:
    """By norm: accuracies `[shares, seeds]` at the end."""
    quick = {"steps": 3_000, "learning_rate": 0.5, "weight_stddev": 0.2}
    changes = {} if setting.full else quick
    return _sweep(setting, "dropout", shares(setting), **changes)


def _sweep(
    setting: Setting, field: str, values: Sequence[float], **changes: float
) -> Curves:
    seeds = range(3 if setting.full else 1)
    found = {}
    for norm in NORMS:
        grid = [
            training.recipe(
                setting, norm=norm, seed=seed, **{**changes, field: value}
            )
            for value, seed in itertools.product(values, seeds)
        ]
        table = setting.runs.table(grid)
        accuracies = [
            training.last_accuracy(table, run_name(each)) for each in grid
        ]
        found[norm] = np.reshape(accuracies, (len(values), len(seeds)))
    return found


def measure(setting: Setting) -> Result:
    """Means over the seeds, and their range over each sweep."""
    by_width, by_share = over_widths(setting), over_shares(setting)
    figures: dict[str, float] = {}
    for norm, name in zip(NORMS, ("with BN", "without BN"), strict=True):
        for value, row in zip(widths(setting), by_width[norm], strict=True):
            figures[f"initial width {value:g}, {name}"] = float(row.mean())
        for value, row in zip(shares(setting), by_share[norm], strict=True):
            figures[f"dropout {value:g}, {name}"] = float(row.mean())
    worst = {norm: by_width[norm].mean(1).min() for norm in NORMS}
    gain = {norm: _gain(by_share[norm]) for norm in NORMS}
    figures |= {
        "gain by dropout, with BN": gain["batch"],
        "gain by dropout, without BN": gain["none"],
    }
    return Result(
        figures=figures,
        holds=bool(worst["batch"] > worst["none"] + 0.1)
        and gain["batch"] < 0.01,
        draw=lambda: sweeps.figure(
            {
                "standard deviation of initial weights": (
                    widths(setting),
                    by_width,
                ),
                "dropout": (shares(setting), by_share),
            }
        ),
    )


def _gain(accuracies: NDArray[np.float64]) -> float:
    """The best share's mean accuracy less that without dropout.

    Args:
        accuracies: `[shares, seeds]`, the first row without dropout.
    """
    means = accuracies.mean(1)
    return float(means[1:].max() - means[0])


CLAIM = Claim(
    number=17,
    title="less need for careful initial weights, and for dropout",
    section="4.2.1",
    expected="over the initial widths the worst accuracy is at least .1 better "
    "with BN; dropout gains less than .01 with BN",
    measure=measure,
    trains=True,
)
