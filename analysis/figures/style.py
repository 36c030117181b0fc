# SPDX-License-Identifier: Apache-2.0
"""The common style of all figures."""

import io
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis import files

WITH_BN = "#1f5fa8"
WITHOUT_BN = "#c2551b"
OTHER_BN = "#00795b"
PAPER = "#555555"
#: Of each norm: name, colour, line.
LOOKS = {
    "batch": ("with BN", WITH_BN, "-"),
    "keras": ("with BN, Keras' layer", PAPER, ":"),
    "per_activation": ("with BN, each place", OTHER_BN, "-."),
    "none": ("without BN", WITHOUT_BN, "--"),
}

_SETTINGS: Any = {  # matplotlib types each key by itself
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.dpi": 150,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}


def panels(
    rows: int,
    columns: int,
    *,
    width: float,
    height: float,
    share_y: bool = False,
) -> Any:
    """A figure and its axes `[rows, columns]`; sizes in inches."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(
            rows, columns, squeeze=False, sharey=share_y
        )


def png(figure: Figure) -> bytes:
    """The figure as the contents of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG."""
    files.write(path, png(figure))


def step_axis(axes: Axes) -> None:
    """Labels the horizontal axis with training steps: 10K, 20K."""
    axes.set_xlabel("training steps")
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x / 1000:g}K" if x else "0")
    )


def accuracy_axis(*panels: Axes) -> None:
    """From 0.5 to 1, as in Fig. 1; from 0 if a line never exceeds 0.5."""
    best = [
        np.max(np.asarray(line.get_ydata(), np.float64), initial=0)
        for axes in panels
        for line in axes.lines
    ]
    for axes in panels:
        axes.set_ylim(0.5 if min(best) > 0.5 else 0.0, 1.0)


def log_axis(axes: Axes, *, which: Literal["x", "y"] = "y") -> None:
    """Makes an axis logarithmic, with plain numbers: 0.2, 0.5, 1."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    axis.set_major_locator(_Locator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


class _Locator(LogLocator):
    """Ticks at 1, 2, 5, 10; over a wide range, at some powers of ten only."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        few = 0 < vmin < vmax < 1e4 * vmin
        self.set_params(subs=(1.0, 2.0, 5.0) if few else (1.0,))
        return super().tick_values(vmin, vmax)


def label_end(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """Writes a line's name behind its last point."""
    axes.annotate(
        text,
        (x, y),
        xytext=(4, 0),
        textcoords="offset points",
        color=color,
        fontsize=8,
        va="center",
        annotation_clip=False,
    )
