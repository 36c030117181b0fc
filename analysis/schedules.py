# SPDX-License-Identifier: Apache-2.0
"""When to measure: functions from a step (steps done so far) to yes or no."""

from collections.abc import Callable

Schedule = Callable[[int], bool]

#: Powers of ten that are covered: more steps than any training takes.
_DECADES = 15


def every(interval: int) -> Schedule:
    """Steps 0, `interval`, 2 `interval`, ...

    Raises:
        ValueError: If `interval` is less than 1.
    """
    if interval < 1:
        raise ValueError(f"interval must be >= 1. Received: {interval}")
    return lambda step: step % interval == 0


def logarithmic(*, per_decade: int = 10) -> Schedule:
    """Step 0, then about `per_decade` steps in each power of ten.

    A step is taken if some `10^(i / per_decade)` rounds to it, so small steps
    are all taken and large ones are spread evenly on a logarithmic axis.

    Raises:
        ValueError: If `per_decade` is less than 1.
    """
    if per_decade < 1:
        raise ValueError(f"per_decade must be >= 1. Received: {per_decade}")

    # A set, as every training step looks it up, and a step may take only a few
    # microseconds.
    points = range(_DECADES * per_decade)
    taken = {0, *(round(10 ** (i / per_decade)) for i in points)}
    return taken.__contains__


def any_of(*schedules: Schedule) -> Schedule:
    """Steps that any of the schedules takes."""
    return lambda step: any(schedule(step) for schedule in schedules)


def and_before(schedule: Schedule) -> Schedule:
    """The steps of a schedule, and the one before each."""
    return lambda step: schedule(step) or schedule(step + 1)
