# SPDX-License-Identifier: Apache-2.0
"""The table of Fig. 4: errors of networks and of their ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Top-1 and top-5 error on ImageNet of BN-Inception and of the ensemble of six
#: (`True`), by the number of crops.
PRINTED = {
    (False, 1): ("25.2%", "7.82%"),
    (False, 144): ("21.99%", "5.82%"),
    (True, 144): ("20.1%", "4.9%"),
}


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table, its head first, beside what the paper prints of Inception.

    Args:
        rows: As `analysis.evaluate.evaluate` returns them; none gives none.
    """
    if not rows:
        return []
    head = ["network", "step", "crops", "top-1 error", "top-5 error"]
    table = [head, *map(_cells, rows)]
    if any(row["model"] == "inception" for row in rows):
        printed = [("printed: top-1", "printed: top-5"), *map(_printed, rows)]
        table = [
            [*ours, *theirs]
            for ours, theirs in zip(table, printed, strict=True)
        ]
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["name"],
        "-" if row["step"] is None else f"{row['step']:,}",
        str(row["crops"]),
        f"{1 - row['top_1']:.2%}",
        f"{1 - row['top_5']:.2%}",
    ]


def _printed(row: Mapping[str, Any]) -> tuple[str, str]:
    case = row["step"] is None, row["crops"]
    of_inception = row["model"] == "inception"
    return PRINTED.get(case, ("-", "-")) if of_inception else ("-", "-")
