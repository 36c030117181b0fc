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
    """The table, its head first, beside what the paper prints.

    Args:
        rows: As `analysis.evaluate.evaluate` returns them; none gives none.
    """
    if not rows:
        return []
    head = [
        "model",
        "step",
        "crops",
        "top-1 error",
        "top-5 error",
        "printed: top-1",
        "printed: top-5",
    ]
    return [head, *map(_cells, rows)]


def _cells(row: Mapping[str, Any]) -> list[str]:
    ensemble = row["step"] is None
    return [
        row["name"],
        "-" if ensemble else f"{row['step']:,}",
        str(row["crops"]),
        f"{1 - row['top_1']:.2%}",
        f"{1 - row['top_5']:.2%}",
        *PRINTED.get((ensemble, row["crops"]), ("-", "-")),
    ]
