# SPDX-License-Identifier: Apache-2.0
"""What measures write to: event files, or memory."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Sink(Protocol):
    """Takes readings; `analysis.summaries.Writer` writes them to files."""

    def open(self, step: int, *, goes_on: bool = False) -> None:
        """Called before the first reading, after `step` steps."""

    def scalars(self) -> Iterator[tuple[str, int, float]]:
        """Tag, step and value of the numbers taken, earlier runs' too."""

    def scalar(self, name: str, value: float, *, step: int) -> None:
        """Takes a number."""

    def histogram(self, name: str, values: ArrayLike, *, step: int) -> None:
        """Takes the values of a distribution."""

    def text(self, name: str, markdown: str, *, step: int = 0) -> None:
        """Takes a remark."""

    def flush(self) -> None:
        """Called after the readings of a step."""

    def close(self) -> None:
        """Called after the last reading."""


class Readings:
    """Keeps the newest reading of each tag.

    Attributes:
        numbers: By tag.
        distributions: Values `[n]` by tag.
        remarks: By tag, such as `missing/<measure>/<layer>`.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.distributions: dict[str, NDArray[Any]] = {}
        self.remarks: dict[str, str] = {}

    def open(self, step: int, *, goes_on: bool = False) -> None:
        """Nothing needs to be opened."""

    def scalars(self) -> Iterator[tuple[str, int, float]]:
        """None: there is no earlier run."""
        return iter(())

    def scalar(self, name: str, value: float, *, step: int) -> None:
        """Keeps a number."""
        del step
        self.numbers[name] = value

    def histogram(self, name: str, values: ArrayLike, *, step: int) -> None:
        """Keeps the values of a distribution."""
        del step
        self.distributions[name] = np.ravel(values)

    def text(self, name: str, markdown: str, *, step: int = 0) -> None:
        """Keeps a remark."""
        del step
        self.remarks[name] = markdown

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing needs to be closed."""
