# SPDX-License-Identifier: Apache-2.0
"""A progress line on standard error for work that takes long."""

import contextlib
import sys
import time
from types import TracebackType

#: Seconds before a line counts, and between its changes.
PATIENCE, INTERVAL = 3.0, 1.0


class Counter:
    """A progress line on standard error, shown if the work takes long.

    The line ends with the `with` block it is used in.

    Args:
        what: Start of the line.
        total: Number to count up to.
        unit: What is counted, in the plural.
        patience: Seconds before the line is first shown; 0 shows it at once,
            and every change.
    """

    def __init__(
        self, what: str, total: int, *, unit: str, patience: float = PATIENCE
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._interval = INTERVAL if patience else 0.0
        self._next = time.monotonic() + patience
        self._shown = False

    def show(self, done: int, more: str = "") -> None:
        """Counts up to `done`; `more` is said after it."""
        last = self._shown and done == self._total
        if time.monotonic() < self._next and not last:
            return
        self._say(
            f"\r{self._what}: {done:,}/{self._total:,} {self._unit}{more}"
        )
        self._shown = True
        self._next = time.monotonic() + self._interval

    def __enter__(self) -> "Counter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._shown:
            self._say("\n")

    @staticmethod
    def _say(text: str) -> None:
        if sys.stderr is None:  # It was closed before the process began.
            return
        with contextlib.suppress(OSError):  # of a terminal that is closed
            print(text, end="", file=sys.stderr, flush=True)
