# SPDX-License-Identifier: Apache-2.0
"""Singular values of each block's Jacobian over training (section 3.3)."""

from typing import Any

from matplotlib.figure import Figure

from analysis import tags
from analysis.figures import style
from analysis.table import Table


def figure(table: Table, *, with_bn: str, without_bn: str) -> Figure:
    """Largest and root-mean-square singular value of each block.

    Args:
        table: Rows of both runs.
        with_bn: Name of the run with BN.
        without_bn: Name of the run without.

    Returns:
        A figure with a panel per block; 1, the paper's conjecture, is marked.

    Raises:
        KeyError: If a curve is missing.
    """
    blocks = block_names(table, with_bn)
    result, axes = style.panels(
        1, len(blocks), width=10, height=3.4, share_y=True
    )
    for panel, block in zip(axes[0], blocks, strict=True):
        for run, norm in ((without_bn, "none"), (with_bn, "batch")):
            label, color, _ = style.LOOKS[norm]
            steps, largest, square = _inference(table, run, block)
            panel.plot(steps, largest, color=color, label=f"{label}: largest")
            panel.plot(
                steps,
                square**0.5,
                ":",
                color=color,
                label=f"{label}: root mean square",
            )
        panel.axhline(1, color=style.PAPER, linewidth=0.8)
        style.log_axis(panel)
        panel.set_title(block)
        style.step_axis(panel)
    axes[0][0].set_ylabel("singular values of the Jacobian")
    handles, labels = axes[0][0].get_legend_handles_labels()
    result.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False
    )
    return result


def block_names(table: Table, run: str) -> list[str]:
    """The blocks whose Jacobian was recorded, as they are numbered.

    Raises:
        KeyError: If there is none.
    """
    found = map(tags.parts, table.tags(run, "analysis"))
    names = {of.layer for of in found if of.measure == "jacobian"}
    if not names:
        raise KeyError(f"run {run} has no Jacobian curves")
    return sorted(names, key=tags.natural)


def _inference(table: Table, run: str, block: str) -> list[Any]:
    """Steps, largest singular values, means of their squares."""
    curves = [
        table.series(
            run, "analysis", tags.tag("jacobian", block, "inference", name)
        )
        for name in ("s1", "mean_square")
    ]
    return [curves[0][0], *(values for _, values in curves)]
