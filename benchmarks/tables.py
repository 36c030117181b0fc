# SPDX-License-Identifier: Apache-2.0
"""Tables as the docs have them."""

from collections.abc import Sequence
from typing import Any


def markdown(rows: Sequence[Sequence[Any]], *, left: int | None = None) -> str:
    """Rows of cells as a Markdown table, the first one its head.

    Args:
        rows: Cells, as many in each row.
        left: Columns that are aligned to the left, others to the right; `None`
            for all.
    """
    head, *others = rows
    if left is None:
        left = len(head)
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(map(_line, (head, rule, *others)))


def _line(cells: Sequence[Any]) -> str:
    return "|" + "".join(f" {cell} |" if cell != "" else " |" for cell in cells)
