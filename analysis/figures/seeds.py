# SPDX-License-Identifier: Apache-2.0
"""Test accuracy over steps, over several seeds, as Fig. 1(a)."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures import figure1, style
from analysis.table import Table


def figure(
    table: Table, panels: Mapping[str, Mapping[str, Sequence[str]]]
) -> Figure:
    """Draws lines of means within bands from the least to the most accurate.

    Args:
        table: Rows of all runs.
        panels: By title, then by norm: the runs of all seeds.

    Raises:
        KeyError: If a curve is missing.
    """
    result, axes = style.panels(
        1, len(panels), width=3.0 * len(panels), height=3.2, share_y=True
    )
    for panel, (title, groups) in zip(axes[0], panels.items(), strict=True):
        for norm, runs in groups.items():
            name, color, line = style.LOOKS[norm]
            steps, values = _where_all_are(table, runs)
            panel.plot(steps, values.mean(0), line, color=color, label=name)
            panel.fill_between(
                steps, values.min(0), values.max(0), color=color, alpha=0.2
            )
        panel.set_title(title)
        style.step_axis(panel)
    first = axes[0][0]
    runs = [
        run for group in panels.values() for r in group.values() for run in r
    ]
    if table.runs[runs[0]].recipe["dataset"] == "mnist":
        figure1.add_printed(first)
    first.set_ylabel("test accuracy")
    style.accuracy_axis(*axes[0])
    first.legend(frameon=False)
    return result


def _where_all_are(
    table: Table, runs: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The steps that all runs have evaluated, accuracies `[runs, steps]`.

    A run that was extended also has an evaluation at its former end.
    """
    curves = [table.series(run, "validation", "accuracy") for run in runs]
    steps = functools.reduce(np.intersect1d, [steps for steps, _ in curves])
    values = [values[np.isin(own, steps)] for own, values in curves]
    return steps, np.array(values)
