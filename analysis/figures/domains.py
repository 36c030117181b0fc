# SPDX-License-Identifier: Apache-2.0
"""Accuracy in several domains, without BN and with several statistics."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import style

#: The bars of each domain, in order.
WAYS = (
    ("without BN", style.WITHOUT_BN),
    ("with BN, statistics of the source", style.OTHER_BN),
    ("of the target, no labels", style.WITH_BN),
    ("fine-tuned on 100 labels", style.PAPER),
)


def figure(accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """Draws a group of bars per domain.

    Args:
        accuracies: By domain, one for each of `WAYS`.
    """
    result, axes = style.panels(1, 1, width=7.5, height=3.4)
    panel = axes[0][0]
    places = np.arange(len(accuracies))
    for i, (name, color) in enumerate(WAYS):
        heights = [values[i] for values in accuracies.values()]
        bars = panel.bar(places + 0.2 * i, heights, 0.18, color=color)
        bars.set_label(name)
        panel.bar_label(bars, fmt="{:.2f}", fontsize=7)
    panel.set_xticks(places + 0.3, list(accuracies))
    panel.set_ylabel("test accuracy")
    panel.set_axisbelow(True)
    panel.margins(y=0.08)
    result.legend(
        loc="outside lower center",
        ncols=len(WAYS),
        frameon=False,
        fontsize="small",
        columnspacing=1.5,
        handlelength=1.2,
    )
    return result
