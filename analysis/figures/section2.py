# SPDX-License-Identifier: Apache-2.0
"""The example of section 2: what a bias does under three gradients."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from analysis.figures import style

#: Of the three ways, in the order in which they are drawn.
COLORS = (style.WITHOUT_BN, "#8a2f6b", style.WITH_BN)


def figure(
    biases: Mapping[str, ArrayLike], losses: Mapping[str, ArrayLike]
) -> Figure:
    """The bias and the loss over steps of gradient descent.

    Args:
        biases: Per gradient, the bias after 0, 1, ... steps.
        losses: Per gradient, the loss likewise.
    """
    result, axes = style.panels(1, 2, width=8, height=3.2)
    for panel, curves, label in zip(
        axes[0], (biases, losses), ("bias b", "loss"), strict=True
    ):
        for (name, values), color in zip(curves.items(), COLORS, strict=True):
            panel.plot(values, color=color, label=name)
        panel.set_xlabel("steps")
        panel.set_title(label)
        bottom, top = panel.get_ylim()
        panel.set_ylim(min(0, bottom), 1.1 * top)
    handles, labels = axes[0][0].get_legend_handles_labels()
    result.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False
    )
    return result
