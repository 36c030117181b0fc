# SPDX-License-Identifier: Apache-2.0
"""The measures of one model, layer by layer, from the first to the last."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from analysis import tags
from analysis.figures import style

#: Percentages of a distribution: its ends, its middle half, its median.
_FIVE = (0, 25, 50, 75, 100)


def figures(
    numbers: Mapping[str, float], distributions: Mapping[str, ArrayLike]
) -> dict[str, Figure]:
    """A figure for each measure that has something to show.

    Args:
        numbers: By tag, see `analysis.tags`.
        distributions: Values `[n]`, likewise.
    """
    named = {tag: tags.parts(tag) for tag in (*numbers, *distributions)}
    percentiles = {
        of.layer: [
            numbers[tags.tag("percentiles", of.layer, name)]
            for name in ("p15", "p50", "p85")
        ]
        for tag in numbers
        if (of := named[tag])._replace(layer="")
        == tags.Tag("percentiles", "", "", "p15")
    }
    spectra = {
        measure: {
            named[tag].layer: np.percentile(np.asarray(values), _FIVE)
            for tag, values in distributions.items()
            if named[tag].measure == measure
        }
        for measure in ("jacobian", "covariance")
    }
    norms = {
        measure: {
            named[tag].layer: value
            for tag, value in numbers.items()
            if named[tag].measure == measure and named[tag].statistic == "norm"
        }
        for measure in ("gradients", "weights")
    }
    drawn = {
        "percentiles": _bands(
            percentiles,
            "what goes into activations: 15th, 50th, 85th percentile",
        ),
        "jacobian": _bands(
            spectra["jacobian"],
            "singular values of the Jacobian: all, middle half, median",
            marked=1,
        ),
        "covariance": _bands(
            {k: 10**v for k, v in spectra["covariance"].items()},
            "positive eigenvalues of the inputs' covariance: all, middle half, "
            "median",
            log=True,
        ),
        "gradients": _dots(norms),
    }
    return {name: figure for name, figure in drawn.items() if figure}


def _bands(
    rows: Mapping[str, Sequence[float] | Any],
    title: str,
    *,
    log: bool = False,
    marked: float | None = None,
) -> Figure | None:
    """Draws per layer a thin line, a thick one for five values, and a dot."""
    if not rows:
        return None
    figure, axes = _layers(list(rows), title, log=log)
    for y, values in enumerate(rows.values()):
        ends = values[0], values[-1]
        axes.plot(ends, (y, y), color=style.WITH_BN, linewidth=1.2)
        if len(values) == len(_FIVE):
            axes.plot(values[1:4:2], (y, y), color=style.WITH_BN, linewidth=5)
        axes.plot(values[len(values) // 2], y, "o", color=style.WITHOUT_BN)
    if marked is not None:
        axes.axvline(marked, color=style.PAPER, linewidth=0.8)
    return figure


def _dots(series: Mapping[str, Mapping[str, float]]) -> Figure | None:
    layers = list(
        dict.fromkeys(name for row in series.values() for name in row)
    )
    if not layers:
        return None
    figure, axes = _layers(layers, "norms per layer", log=True)
    colors = (style.WITH_BN, style.WITHOUT_BN)
    for (label, row), color in zip(series.items(), colors, strict=True):
        y = [layers.index(name) for name in row]
        axes.plot(list(row.values()), y, "o", color=color, label=label)
    axes.legend()
    return figure


def _layers(
    names: Sequence[str], title: str, *, log: bool
) -> tuple[Figure, Axes]:
    """Axes with a row per layer, the first on top."""
    figure, axes = style.panels(
        1, 1, width=7, height=max(2.0, 0.9 + 0.22 * len(names))
    )
    panel = axes[0][0]
    panel.set_title(title)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    if log:
        style.log_axis(panel, which="x")
    return figure, panel
