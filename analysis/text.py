# SPDX-License-Identifier: Apache-2.0
"""Text as terminals and pages show it."""

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns: the first to the left, others to the right.

    Args:
        rows: Cells, as many in each row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def printable(text: str) -> str:
    """Text that UTF-8 can encode: file names may hold undecodable bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
