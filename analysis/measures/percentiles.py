# SPDX-License-Identifier: Apache-2.0
"""Percentiles of what a layer's units see, as in Fig. 1(b, c) of the paper."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.measures import samples

#: The paper's three lines.
PAPER_PERCENTILES = (15.0, 50.0, 85.0)


def percentiles(
    values: ArrayLike,
    q: Sequence[float] = PAPER_PERCENTILES,
    *,
    per_unit: bool = False,
    limit: int | None = samples.LIMIT,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Percentiles over examples, pooled over units or for each unit.

    A unit is one index of the last axis: a neuron, or a feature map. Linear
    interpolation between neighbours.

    Args:
        values: `[N, ..., units]`, any real dtype.
        q: Percentages in `[0, 100]`.
        per_unit: Whether each unit has percentiles of its own.
        limit: The most values per percentile; if there are more, this many
            are drawn at random, and ranks are off by at most
            `analysis.measures.samples.rank_error(limit)` percentage points
            (99% confidence). `None` uses all.
        seed: Seed of the draw.

    Returns:
        `[len(q)]`, or `[len(q), units]` per unit, in the unit of `values`.

    Raises:
        ValueError: If `values` is empty or has less than two axes, or a
            percentage lies outside `[0, 100]`.
    """
    array = np.asarray(values)
    if array.ndim < 2 or not array.size:
        raise ValueError(
            "values must have shape [N, ..., units] and not be empty. "
            f"Received: shape={array.shape}"
        )
    check_percentages(q)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more. Received: limit={limit}")
    rows: NDArray[Any] = array.reshape(-1, array.shape[-1] if per_unit else 1)
    if limit is not None:
        rows = samples.drawn(rows, limit, seed=seed)
    # A percentile of float16 values interpolates in float16.
    rows = rows.astype(np.result_type(rows.dtype, np.float32))
    result = np.percentile(rows, q, axis=0 if per_unit else None)
    return np.asarray(result, np.float64)


def check_percentages(q: Sequence[float]) -> None:
    """Raises `ValueError` if `q` is empty or not all in `[0, 100]`."""
    if np.ndim(q) != 1:
        raise ValueError(f"q must be a list of percentages. Received: q={q}")
    if not len(q) or not all(0 <= p <= 100 for p in q):
        raise ValueError(f"q must lie in [0, 100]. Received: q={tuple(q)}")
