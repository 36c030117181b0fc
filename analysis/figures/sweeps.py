# SPDX-License-Identifier: Apache-2.0
"""Test accuracy over a hyperparameter, with and without BN."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures import style

Sweep = tuple[Sequence[float], Mapping[str, NDArray[np.floating[Any]]]]


def figure(panels: Mapping[str, Sweep]) -> Figure:
    """Draws means over seeds and each seed's own accuracy.

    Args:
        panels: By the name of the hyperparameter: its values, and, by norm,
            accuracies `[values, seeds]`.
    """
    result, axes = style.panels(
        1, len(panels), width=4.2 * len(panels), height=3.2
    )
    for panel, (name, (values, curves)) in zip(
        axes[0], panels.items(), strict=True
    ):
        for norm, accuracies in curves.items():
            label, color, line = style.LOOKS[norm]
            panel.plot(
                values, accuracies.mean(1), line, color=color, label=label
            )
            panel.plot(values, accuracies, ".", color=color, markersize=4)
        if min(values) > 0:
            panel.set_xscale("log")
        panel.set_xlabel(name)
    axes[0][0].set_ylabel("test accuracy")
    axes[0][0].legend(frameon=False)
    return result
