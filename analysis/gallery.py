# SPDX-License-Identifier: Apache-2.0
"""Every figure that the runs of a table allow, with its caption."""

import re
from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from analysis import comparison
from analysis.figures import (
    accuracies,
    figure1,
    figure2,
    jacobians,
    seeds,
    style,
)
from analysis.page import Picture
from analysis.table import Table


def drawn(table: Table) -> tuple[list[Picture], list[str]]:
    """Draws every figure that the runs allow.

    Args:
        table: Rows of all runs.

    Returns:
        The pictures, and a line for each that is missing, with the reason.
    """
    missing: list[str] = []
    pictures = [
        *_pairs(table, missing),
        *_seeds(table),
        *_variants(table, missing),
        *_all_runs(table, missing),
    ]
    return pictures, missing


def _pairs(table: Table, missing: list[str]) -> Iterator[Picture]:
    pairs = comparison.pairs(table)
    if not pairs:
        missing.append(
            "Fig. 1 is missing: it needs a run of fig1_bn and one of "
            "fig1_baseline, both with measures, that differ in nothing else"
        )
    for runs in pairs:
        file_name = re.sub(r"[^\w.=-]+", "-", runs.with_bn)
        for name, (draw, caption) in _of_pairs(runs.label).items():
            try:
                figure = draw(
                    table, with_bn=runs.with_bn, without_bn=runs.without_bn
                )
            except KeyError as error:
                missing.append(
                    f"{name}, {runs.label}, is missing: {error.args[0]}"
                )
                continue
            yield Picture(f"{name}-{file_name}", caption, style.png(figure))


def _of_pairs(label: str) -> dict[str, tuple[Callable[..., Figure], str]]:
    """Figures that compare a run with BN and one without, with captions."""
    return {
        "figure1": (
            figure1.figure,
            f"Fig. 1 of the paper, {label}. (a) Test accuracy; (b, c) the "
            "15th, 50th and 85th percentile of the input of one sigmoid "
            "of the last hidden layer, over test examples.",
        ),
        "jacobians": (
            jacobians.figure,
            f"Singular values of each block's Jacobian at inference, "
            f"{label}: means over test examples. The paper conjectures "
            "values near 1 with batch normalization.",
        ),
    }


def _seeds(table: Table) -> Iterator[Picture]:
    groups = comparison.over_seeds(table)
    if groups:
        caption = (
            "Fig. 1(a) over several seeds: lines are means, bands extend from "
            "the least to the most accurate run."
        )
        yield Picture("seeds", caption, style.png(seeds.figure(table, groups)))


def _variants(table: Table, missing: list[str]) -> Iterator[Picture]:
    shown = figure2.runs_of(table)
    missing += [
        f"Fig. 2 is without {run}: it needs a run of the recipe inception with "
        "the same data set, scale and seed, and shows one run of each variant, "
        "with the variant's own normalization"
        for run in figure2.left_out(table)
    ]
    if shown:
        caption = (
            "Fig. 2 of the paper, at the scale of these runs: test accuracy of "
            "Inception and its batch-normalized variants; diamonds mark where "
            "a variant reaches Inception's best accuracy."
        )
        yield Picture("figure2", caption, style.png(figure2.figure(table)))


def _all_runs(table: Table, missing: list[str]) -> Iterator[Picture]:
    """Test accuracy of all runs in one figure, if there are more than two."""
    runs = [r for r in table.runs if table.has(r, "validation", "accuracy")]
    if len(runs) > accuracies.MOST:
        missing.append(
            f"one figure of all {len(runs)} runs is missing: more than "
            f"{accuracies.MOST} lines cannot be told apart"
        )
    elif len(runs) > 2:
        figure = accuracies.figure(table, runs)
        yield Picture(
            "all-runs", "Test accuracy of all runs.", style.png(figure)
        )
