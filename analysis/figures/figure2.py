# SPDX-License-Identifier: Apache-2.0
"""Fig. 2 and the table of Fig. 3: the variants of section 4.2 over steps."""

import dataclasses
from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.table import Run, Table

#: In the paper's order; the last two are the failures it reports.
VARIANTS = (
    ("inception", "Inception"),
    ("bn_baseline", "BN-Baseline"),
    ("bn_x5", "BN-x5"),
    ("bn_x30", "BN-x30"),
    ("bn_x5_sigmoid", "BN-x5-Sigmoid"),
    ("inception_x5", "Inception x5"),
    ("inception_sigmoid", "Inception-Sigmoid"),
)
#: Fields of a recipe in which runs must agree to be compared.
_SCALE = ("dataset", "image_size", "width", "batch_size", "steps", "seed")
#: Steps to Inception's best accuracy, and best accuracy, on ImageNet.
PRINTED = {
    "inception": ("31.0M", "72.2%"),
    "bn_baseline": ("13.3M", "72.7%"),
    "bn_x5": ("2.1M", "73.0%"),
    "bn_x30": ("2.7M", "74.8%"),
    "bn_x5_sigmoid": ("-", "69.8%"),
    "inception_x5": ("-", "diverged"),
    "inception_sigmoid": ("-", "at chance"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of Fig. 3.

    Attributes:
        variant: Name of the recipe, without its data set.
        name: As the paper calls it.
        run: Name of the run.
        steps_to_best: First evaluated step at which it is as good as
            Inception ever gets; `None` if it never is.
        best: Its best test accuracy.
    """

    variant: str
    name: str
    run: str
    steps_to_best: int | None
    best: float


def runs_of(table: Table) -> dict[str, str]:
    """Runs of the variants that can be compared, in the paper's order.

    They have the data set, scale and seed of one run of Inception: the one that
    most variants can be compared with.

    Returns:
        Variant to run; empty without a run of Inception.
    """
    runs = _candidates(table)
    choices = [
        {variant: run.name for variant, run in runs if _scale(run) == scale}
        for scale in {_scale(run): None for _, run in runs}
    ]
    found = max(
        (choice for choice in choices if "inception" in choice),
        key=len,
        default={},
    )
    return {v: found[v] for v, _ in VARIANTS if v in found}


def left_out(table: Table) -> list[str]:
    """Evaluated runs of the variants that are not among those of `runs_of`."""
    shown = runs_of(table).values()
    return sorted(
        run.name
        for run in table.runs.values()
        if _variant(run) and _is_evaluated(table, run) and run.name not in shown
    )


def _candidates(table: Table) -> list[tuple[str, Run]]:
    """Each variant, and its evaluated runs that normalize as it does."""
    return [
        (variant, run)
        for run in table.runs.values()
        if (variant := _variant(run))
        and _is_evaluated(table, run)
        and (run.recipe.get("norm", "none") == "none")
        == variant.startswith("inception")
    ]


def _is_evaluated(table: Table, run: Run) -> bool:
    return table.has(run.name, "validation", "accuracy")


def _variant(run: Run) -> str:
    """The variant that a run's recipe names, or nothing."""
    name = str(run.recipe.get("recipe", "")).removeprefix("cifar10_")
    return name if name in dict(VARIANTS) else ""


def _scale(run: Run) -> tuple[str, ...]:
    return tuple(str(run.recipe.get(name)) for name in _SCALE)


def rows(table: Table) -> list[Row]:
    """The table of Fig. 3.

    Raises:
        KeyError: If there is no run of Inception without BN.
    """
    runs = runs_of(table)
    if "inception" not in runs:
        raise KeyError("no run of the recipe inception")
    _, accuracy = table.series(runs["inception"], "validation", "accuracy")
    goal = accuracy.max()
    result = []
    for variant, name in VARIANTS:
        if variant not in runs:
            continue
        _, accuracy = table.series(runs[variant], "validation", "accuracy")
        result.append(
            Row(
                variant,
                name,
                runs[variant],
                table.first_step(runs[variant], goal),
                float(accuracy.max()),
            )
        )
    return result


def cells(table_rows: Sequence[Row]) -> list[list[str]]:
    """The table, its head first, beside what the paper prints."""
    head = [
        "model",
        "steps to Inception's best",
        "best accuracy",
        "printed: steps",
        "printed: best",
    ]
    return [
        head,
        *(
            [
                row.name,
                "-" if row.steps_to_best is None else f"{row.steps_to_best:,}",
                f"{row.best:.2%}",
                *PRINTED[row.variant],
            ]
            for row in table_rows
        ),
    ]


def figure(table: Table) -> Figure:
    """Test accuracy over training steps, a line per variant.

    Raises:
        KeyError: If there is no run of Inception without BN.
    """
    result, axes = style.panels(1, 1, width=6.5, height=4)
    panel = axes[0][0]
    for row in rows(table):
        steps, accuracy = table.series(row.run, "validation", "accuracy")
        failed = row.variant.startswith("inception_")
        (line,) = panel.plot(
            steps,
            accuracy,
            ":" if failed else "-",
            label=row.name,
        )
        if row.steps_to_best is not None:
            best = accuracy[list(steps).index(row.steps_to_best)]
            panel.plot(row.steps_to_best, best, "D", color=line.get_color())
    panel.set_ylabel("test accuracy")
    style.step_axis(panel)
    result.legend(loc="outside right center", frameon=False)
    return result
