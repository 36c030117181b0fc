# SPDX-License-Identifier: Apache-2.0
"""The example of section 2 in pictures: what becomes of the bias."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from analysis.figures import style

Array = NDArray[np.float64]


def one_step(x: Sequence[Array], x_hat: Sequence[Array]) -> Figure:
    """X moves, x_hat does not.

    Args:
        x: `[m]` before, and after, steps that ignore dE[x]/db.
        x_hat: Likewise, normalized.
    """
    result, axes = style.panels(1, 2, width=8, height=2.6)
    titles = ("x = u + b: moves", "x - E[x]: stays")
    for panel, values, title in zip(axes[0], (x, x_hat), titles, strict=True):
        pairs = (("before", style.PAPER, 1.0), ("after", style.WITHOUT_BN, 0.0))
        for (name, color, height), points in zip(pairs, values, strict=True):
            heights = np.full(len(points), height)
            panel.plot(points, heights, "|", color=color, markersize=22)
            panel.plot(points.mean(), height, "D", color=color, markersize=6)
            style.label_end(panel, points.max(), height, f"  {name}", color)
        panel.set_ylim(-0.7, 1.7)
        panel.set_yticks([])
        panel.margins(x=0.2)
        panel.set_title(title)
    axes[0][0].set_xlabel("60 examples (bars) and their mean (diamond)")
    axes[0][1].set_xlabel("the same, less their mean")
    return result


def contributions(direct: Array, through_mean: Array) -> Figure:
    """The contributions of the examples to dl/db add up to 0.

    Args:
        direct: `[m]`, direct contribution of each example, E[x] held constant.
        through_mean: `[m]`, contribution of each example through E[x].
    """
    result, axes = style.panels(1, 2, width=8, height=2.8)
    parts, sums = axes[0]
    order = np.argsort(direct)
    places = np.arange(len(direct))
    parts.bar(places, direct[order], color=style.WITHOUT_BN, label="direct")
    parts.plot(
        places, through_mean[order], color=style.WITH_BN, label="through E[x]"
    )
    parts.set_xlabel("examples, sorted")
    parts.set_title("what each example adds to dl/db")
    parts.legend()
    totals = {
        "direct": (direct.sum(), style.WITHOUT_BN),
        "through E[x]": (through_mean.sum(), style.WITH_BN),
        "both": (direct.sum() + through_mean.sum(), style.PAPER),
    }
    for place, (total, color) in enumerate(totals.values()):
        sums.bar(place, total, color=color)
        sums.annotate(
            f"{total:.3f}" if abs(total) > 1e-12 else "0",
            (place, total),
            ha="center",
            va="bottom" if total >= 0 else "top",
        )
    sums.axhline(0, color=style.PAPER, linewidth=0.8)
    sums.set_xticks(range(3), list(totals))
    sums.margins(y=0.15)
    sums.set_title("their sums")
    return result


def explosion(
    distances: Mapping[str, ArrayLike], losses: Mapping[str, ArrayLike]
) -> Figure:
    """How far b goes, and the loss, over the steps.

    Args:
        distances: By name, `[steps + 1]`, the full gradient's last.
        losses: Likewise.
    """
    result, axes = style.panels(1, 2, width=8, height=2.8)
    colors = (style.WITHOUT_BN, style.PAPER, style.WITH_BN)
    for panel, curves in zip(axes[0], (distances, losses), strict=True):
        for (name, values), color in zip(curves.items(), colors, strict=True):
            panel.plot(
                np.asarray(values),
                "--" if color == style.WITH_BN else "-",
                color=color,
                label=name,
            )
        panel.set_xlabel("gradient steps")
        panel.set_ylim(0 if panel is axes[0][1] else None)
    axes[0][0].set_title("how far b has gone")
    axes[0][1].set_title("loss")
    axes[0][0].legend()
    return result
