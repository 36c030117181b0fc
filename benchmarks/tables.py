# SPDX-License-Identifier: Apache-2.0
"""Tables for the docs."""

from collections.abc import Sequence
from typing import Any


def markdown(rows: Sequence[Sequence[Any]], *, right: int = 0) -> str:
    """Rows of cells as a Markdown table, the first one its head.

    Args:
        rows: Cells, as many in each row.
        right: How many of the last columns are aligned to the right.
    """
    head, *others = rows
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join(map(_line, (head, rule, *others)))


def _line(cells: Sequence[Any]) -> str:
    return "|" + "".join(f" {cell} |" if cell != "" else " |" for cell in cells)
