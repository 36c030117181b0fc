# SPDX-License-Identifier: Apache-2.0
"""Argument checks; messages state the rule, then the value received."""

import contextlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def fraction(name: str, value: float) -> float:
    """`value` as a float; raises `ValueError` unless in `[0, 1]`."""
    number = real(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1]. Received: {name}={value}")
    return number


def real(name: str, value: float) -> float:
    """`value` as a float; raises `ValueError` if it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} must be a number. Received: {name}={value}"
        ) from None


def integers(name: str, value: int | Sequence[int]) -> int | tuple[int, ...]:
    """`value` in plain integers; raises `ValueError` if it is anything else."""
    try:
        if np.ndim(value) == 0:
            return operator.index(value)  # type: ignore[arg-type]
        return tuple(map(operator.index, value))  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(
            f"{name} must be an integer or several. Received: {name}={value}"
        ) from None


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value`; raises `ValueError` unless it is one of `allowed`."""
    if value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(allowed)}. "
            f"Received: {name}={value}"
        )
    return value


def optional_size(name: str, value: int | None) -> int | None:
    """`value`; raises `ValueError` unless `None` or an integer >= 1."""
    if value is None:
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and int(value) == value >= 1:
            return int(value)
    raise ValueError(
        f"{name} must be None or an integer >= 1. Received: {name}={value}"
    )


def excluding(given: Mapping[str, Any], *pairs: tuple[str, str]) -> None:
    """Raises `ValueError` if both arguments of a pair are given.

    Args:
        given: The arguments that were not left at their defaults.
        *pairs: Arguments that exclude each other.
    """
    for first, second in pairs:
        if first in given and second in given:
            raise ValueError(
                f"{first} and {second} exclude each other. Received: "
                f"{first}={given[first]}, {second}={given[second]}"
            )
