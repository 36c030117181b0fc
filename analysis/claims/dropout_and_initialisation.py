# SPDX-License-Identifier: Apache-2.0
"""Claim 17: less need for careful initial weights, and for dropout.

Measured with and without BN: test accuracy of the MLP over the width (standard
deviation) of its initial weights, after few steps, and over the share that
dropout drops, at the end of training. The paper reports both for Inception
(sections 1 and 4.2.1). A width may seem too small only because the learning
rate is too small, so each width is measured at two learning rates.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.claims import training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.runs import run_name
from analysis.figures import sweeps

#: Learning rates for each width.
RATES = (0.1, 2.0)
#: Accuracies `[values, seeds]` by norm.
Curves = dict[str, NDArray[np.float64]]


def widths(setting: Setting) -> Sequence[float]:
    """Standard deviations of the initial weights."""
    return (0.001, 0.01, 0.05, 0.1, 0.3, 1.0) if setting.full else (0.01, 1.0)


def shares(setting: Setting) -> Sequence[float]:
    """Shares that are dropped after each hidden layer."""
    return (0.0, 0.1, 0.25, 0.5) if setting.full else (0.0, 0.5)


def over_widths(setting: Setting, rate: float) -> Curves:
    """Accuracies after 10,000 steps; at small scale after 3,000."""
    steps = 10_000 if setting.full else 3_000
    return _sweep(
        setting,
        "weight_stddev",
        widths(setting),
        steps=steps,
        learning_rate=rate,
    )


def over_shares(setting: Setting) -> Curves:
    """Accuracies at the end of training."""
    quick = {"steps": 3_000, "learning_rate": 0.5, "weight_stddev": 0.2}
    changes = {} if setting.full else quick
    return _sweep(setting, "dropout", shares(setting), **changes)


def _sweep(
    setting: Setting, field: str, values: Sequence[float], **changes: float
) -> Curves:
    seeds = range(3 if setting.full else 2)
    found = {}
    for norm in training.SIDES:
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
    """Means over the seeds, and a summary of each sweep."""
    by_width = {rate: over_widths(setting, rate) for rate in RATES}
    by_share = over_shares(setting)
    figures: dict[str, float] = {}
    for norm, side in training.SIDES.items():
        means = {rate: by_width[rate][norm].mean(1) for rate in RATES}
        for rate, row in means.items():
            for width, mean in zip(widths(setting), row, strict=True):
                figures[f"width {width:g}, rate {rate:g}, {side}"] = mean
            figures[f"worst width, rate {rate:g}, {side}"] = row.min()
        best = np.max([*means.values()], axis=0)
        figures[f"worst width, best rate of each, {side}"] = best.min()
        for share, row in zip(shares(setting), by_share[norm], strict=True):
            figures[f"dropout {share:g}, {side}"] = row.mean()
            for seed, accuracy in enumerate(row):
                figures[f"dropout {share:g}, {side}, seed {seed}"] = accuracy
        gain = _gain(by_share[norm])
        figures[f"gain by dropout, {side}"] = gain.mean()
        figures[f"its standard error, {side}"] = float(
            gain.std(ddof=1) / math.sqrt(len(gain))
        )
    return Result(
        figures=figures,
        note="initial weights: "
        + ("seen" if _less_careful(figures) else "not seen")
        + "; dropout: "
        + ("seen" if _less_dropout(figures) else "not seen"),
        draw=lambda: sweeps.figure(
            {
                **{
                    f"width of initial weights, rate {rate:g}": (
                        widths(setting),
                        by_width[rate],
                    )
                    for rate in RATES
                },
                "dropout": (shares(setting), by_share),
            }
        ),
    )


def _gain(accuracies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy gained, by seed, with the dropout that is best on average.

    Args:
        accuracies: `[shares, seeds]`, the first row without dropout.
    """
    best = accuracies[1:].mean(1).argmax()
    gain: NDArray[np.float64] = accuracies[1 + best] - accuracies[0]
    return gain


def _less_careful(figures: Figures, *, by: float = 0.1) -> bool:
    ours, plain = (
        figures[f"worst width, best rate of each, {side}"]
        for side in training.SIDES.values()
    )
    return ours > plain + by


def _less_dropout(figures: Figures) -> bool:
    (ours, plain), errors = (
        [figures[f"{name}, {side}"] for side in training.SIDES.values()]
        for name in ("gain by dropout", "its standard error")
    )
    return plain > 0 and plain - ours > 2 * math.hypot(*errors)


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return _less_careful(figures) and _less_dropout(figures)


def is_less_careful(figures: Figures) -> bool:
    """Whether bad widths cost less with BN, if only a little: it was seen."""
    return _less_careful(figures, by=0.0)


CLAIM = Claim(
    number=17,
    title="less need for careful initial weights, and for dropout",
    section="4.2.1",
    expected="over the initial widths, each at its best rate, the worst "
    "accuracy is at least .1 better with BN; dropout gains without BN, and "
    "less with BN by more than two standard errors",
    measure=measure,
    holds=holds,
    not_seen=is_less_careful,
    trains=True,
)
