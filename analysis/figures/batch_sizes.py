# SPDX-License-Identifier: Apache-2.0
"""Errors of the population's variance by batch size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures import style


def figure(
    sizes: Sequence[int], errors: Mapping[str, NDArray[np.floating[Any]]]
) -> Figure:
    """Draws the mean error, which is bias, and the rms error.

    Args:
        sizes: Batch sizes, in examples.
        errors: By name: relative errors `[sizes, features]`.
    """
    result, axes = style.panels(1, 2, width=9, height=3.8)
    mean, rms = axes[0]
    lines = ("-", "--", "-", "--")
    colors = (style.WITH_BN, style.WITH_BN, style.WITHOUT_BN, style.WITHOUT_BN)
    for (name, values), line, color in zip(
        errors.items(), lines, colors, strict=True
    ):
        root = np.sqrt(np.mean(values**2, axis=1))
        mean.plot(sizes, values.mean(1), line, color=color, label=name)
        rms.plot(sizes, root, line, color=color)
    for panel in (mean, rms):
        panel.set_xscale("log", base=2)
        panel.set_xlabel("examples in a batch")
    mean.set_title("mean error of the variance, relative")
    style.log_axis(rms)
    rms.set_title("root mean square of the error")
    result.legend(loc="outside lower center", ncols=2, frameon=False)
    return result
