# SPDX-License-Identifier: Apache-2.0
"""Fig. 1 of Ioffe & Szegedy 2015: the MLP with and without BN.

(a) test accuracy over training steps; (b, c) the 15th, 50th and 85th
percentile of the input of one sigmoid of the last hidden layer, over test
examples, without and with BN.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import tags
from analysis.figures import style
from analysis.table import Table

PERCENTILES = ("p15", "p50", "p85")
#: Greys for these lines; colours stand for with and without BN.
SHADES = ("#8a8a8a", "#222222", "#8a8a8a")

#: Steps, and test accuracy with and without BN, read off the printed figure
#: (to about .005). It was made on MNIST.
PRINTED = (
    (4_000, 0.954, 0.71),
    (8_000, 0.968, 0.905),
    (10_000, 0.967, 0.925),
    (16_000, 0.975, 0.957),
    (21_000, 0.975, 0.964),
    (30_000, 0.980, 0.968),
    (50_000, 0.982, 0.973),
)


def figure(table: Table, *, with_bn: str, without_bn: str) -> Figure:
    """Draws the three panels.

    Args:
        table: Rows of both runs.
        with_bn: Name of the run with BN.
        without_bn: Name of the run without.

    Returns:
        A figure of 10 by 3.2 inches.

    Raises:
        KeyError: If a curve is missing.
    """
    result, axes = style.panels(1, 3, width=10, height=3.2)
    accuracy, left, right = axes[0]
    _draw_accuracy(accuracy, table, with_bn, without_bn)
    _draw_percentiles(left, table, without_bn, "(b) without BN")
    _draw_percentiles(right, table, with_bn, "(c) with BN")
    limits = np.array([left.get_ylim(), right.get_ylim()])
    for panel in (left, right):
        panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    left.set_ylabel("input of one sigmoid, last hidden layer")
    return result


def typical_unit_tags(table: Table, run: str) -> list[str]:
    """Tags of the three lines of the deepest block's single unit.

    Raises:
        KeyError: If the run has none.
    """
    found = map(tags.parts, table.tags(run, "analysis"))
    units = {
        (of.layer, of.condition)
        for of in found
        if of.measure == "percentiles" and of.condition.startswith("unit")
    }
    if not units:
        raise KeyError(f"run {run} has no percentiles of a single unit")
    # hidden3 after hidden2: the deepest block has the last name.
    layer, unit = max(units, key=lambda of: (tags.natural(of[0]), of[1]))
    return [tags.tag("percentiles", layer, unit, name) for name in PERCENTILES]


def _draw_accuracy(
    axes: Axes, table: Table, with_bn: str, without_bn: str
) -> None:
    for run, norm in ((without_bn, "none"), (with_bn, "batch")):
        label, color, line = style.LOOKS[norm]
        steps, values = table.series(run, "validation", "accuracy")
        axes.plot(steps, values, line, color=color, label=label)
    if table.runs[with_bn].recipe.get("dataset") == "mnist":
        add_printed(axes)
    style.accuracy_axis(axes)
    axes.set_title("(a) test accuracy")
    axes.legend(frameon=False)
    style.step_axis(axes)


def add_printed(axes: Axes) -> None:
    """Adds circles for the accuracies that the paper's figure shows."""
    steps, with_bn, without_bn = zip(*PRINTED, strict=True)
    for norm, values in (("none", without_bn), ("batch", with_bn)):
        axes.plot(
            steps,
            values,
            "o",
            color=style.LOOKS[norm][1],
            markerfacecolor="none",
            markersize=4,
            label="printed in the paper" if norm == "batch" else None,
        )


def _draw_percentiles(axes: Axes, table: Table, run: str, title: str) -> None:
    curves = typical_unit_tags(table, run)
    for tag, name, color in zip(curves, PERCENTILES, SHADES, strict=True):
        steps, values = table.series(run, "analysis", tag)
        axes.plot(steps, values, color=color)
        style.label_end(axes, steps[-1], values[-1], name, color)
    axes.set_title(title)
    style.step_axis(axes)
