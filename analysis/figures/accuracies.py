# SPDX-License-Identifier: Apache-2.0
"""Test accuracy of several runs over steps."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.table import Table

#: Colours that most people can tell apart (Wong 2011), for solid and for dashed
#: lines.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#555555")
LINES = ("-", "--")
#: More lines cannot be told apart.
MOST = len(COLORS) * len(LINES)


def figure(table: Table, runs: Sequence[str]) -> Figure:
    """A line per run.

    Args:
        table: Rows of the runs.
        runs: Their names, `MOST` at most.

    Raises:
        KeyError: If a curve is missing.
    """
    result, axes = style.panels(1, 1, width=8, height=3.6)
    panel = axes[0][0]
    looks = [(color, line) for line in LINES for color in COLORS]
    for i, (run, (color, line)) in enumerate(zip(runs, looks, strict=False)):
        steps, values = table.series(run, "validation", "accuracy")
        # Each line is thinner than the last: identical runs stay visible.
        width = 3.6 - 2.4 * i / len(runs)
        panel.plot(steps, values, line, color=color, lw=width, label=run)
    panel.set_ylabel("test accuracy")
    style.step_axis(panel)
    result.legend(loc="outside right upper", fontsize="small", frameon=False)
    return result
