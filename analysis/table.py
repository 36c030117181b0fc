# SPDX-License-Identifier: Apache-2.0
"""Rows of measured numbers, which readers return and figures take."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Row(NamedTuple):
    """One number, with its run, part of the run, tag and number of steps.

    `part` is `train`, `validation` or `analysis`.
    """

    run: str
    part: str
    tag: str
    step: int
    value: float


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its name, its recipe and environments, its result.

    Attributes:
        name: Path of the run below the log folder.
        recipe: Fields of `recipe.json`'s recipe.
        environments: Versions, commit, device and platform of each start,
            the first and those that resumed the run; may be empty.
        result: Contents of `result.json`; empty while the run goes on.
    """

    name: str
    recipe: Mapping[str, Any]
    environments: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any]


class Table:
    """All rows of several runs, one value per run, part, tag and step.

    Args:
        runs: The runs.
        rows: Their rows; of two with the same run, part, tag and step the
            later one counts.
        warnings: What could not be read of them, a line each.
    """

    def __init__(
        self,
        runs: Iterable[Run],
        rows: Iterable[Row],
        warnings: Sequence[str] = (),
    ) -> None:
        self.runs = {run.name: run for run in runs}
        self.warnings = warnings
        self._series: dict[tuple[str, str, str], dict[int, float]] = {}
        for run, part, tag, step, value in rows:
            self._series.setdefault((run, part, tag), {})[step] = value

    def series(
        self, run: str, part: str, tag: str
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps, ascending, and values of one curve.

        Raises:
            KeyError: If there is no such curve.
        """
        if (run, part, tag) not in self._series:
            raise KeyError(f"run {run} has no {part} curve {tag}")
        points = sorted(self._series[run, part, tag].items())
        steps = np.array([step for step, _ in points], np.int64)
        return steps, np.array([value for _, value in points], np.float64)

    def first_step(self, run: str, accuracy: float) -> int | None:
        """The first evaluated step that reaches an accuracy, if any does."""
        steps, values = self.series(run, "validation", "accuracy")
        reached = steps[values >= accuracy]
        return int(reached[0]) if len(reached) else None

    def has(self, run: str, part: str, tag: str) -> bool:
        """Whether there is such a curve."""
        return (run, part, tag) in self._series

    def tags(self, run: str, part: str) -> list[str]:
        """The tags of a run's part, sorted."""
        return sorted(t for r, p, t in self._series if (r, p) == (run, part))

    def rows(self) -> list[Row]:
        """Every row, sorted."""
        return sorted(
            Row(*key, step, value)
            for key, points in self._series.items()
            for step, value in points.items()
        )
