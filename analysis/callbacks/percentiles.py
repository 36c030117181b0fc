# SPDX-License-Identifier: Apache-2.0
"""Distributions of the inputs of activations, as in Fig. 1(b, c)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis import autodiff, structure, tags
from analysis.callbacks.base import CapturingCallback, Reading
from analysis.layout import Band, Category, Lines
from analysis.measures import samples
from analysis.measures.moments import moments
from analysis.measures.percentiles import (
    PAPER_PERCENTILES,
    check_percentages,
    percentiles,
)
from analysis.measures.saturation import saturation
from analysis.readings import Sink

#: Percentages whose percentiles make up the histogram.
_POINTS = tuple(np.arange(0.25, 100, 0.5))


class PercentilesCallback(CapturingCallback):
    """Percentiles of the input of each block's activation (Fig. 1(b, c)).

    If a block has no activation, its output is used instead. Writes
    `percentiles/<layer>/p<q>` over all units of the layer pooled and
    `percentiles/<layer>/unit<i>/p<q>` of one unit; units are exchangeable
    before training, so any index is a fair draw of "one typical unit". Also
    `mean`, `std` and `skewness`, all units pooled, and the shares of
    `saturated` values and `dead` units.

    For large feature maps, each percentile is estimated from 262,144 values
    drawn at random: its rank is off by at most .32 percentage points (99%
    confidence). Moments and shares use about as many values, at random
    positions that all units share; `dead` refers to these positions only.

    Args:
        writer: Where to write.
        q: Percentages; the dashboard shows the lowest, middle and highest.
        unit: Index of the one unit; 0 or more.
        histogram: Whether to write `percentiles/<layer>/histogram`, too, which
            TensorBoard shows under *histograms*.
        **options: See `MeasureCallback`.

    Raises:
        ValueError: See `MeasureCallback`; also for percentages outside of
            `[0, 100]`, for a negative `unit` and, before the first step, for
            one that a block does not have.
    """

    measure = "percentiles"
    how_to_read = """\
The band spans the 15th to the 85th percentile of the input of a block's
activation, the line is the median, both over a fixed set of examples. "All
units" pools all units of a layer, "unit0" is a single unit, as in Fig. 1(b, c)
of the paper. A band that stays in place means that later layers see a stable
distribution.

`saturated` is the share of values at which the activation function is flat;
`dead` is the share of units at which it is flat for every example (in large
feature maps, at every sampled position). Hardly any gradient passes through
either.

The custom scalars page hides outliers by default: untick *ignore outliers* if a
band looks truncated."""

    def __init__(
        self,
        writer: Sink,
        *,
        q: Sequence[float] = PAPER_PERCENTILES,
        unit: int = 0,
        histogram: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(writer, **options)
        if unit < 0:
            raise ValueError(f"unit must be 0 or more. Received: unit={unit}")
        check_percentages(q)
        self._q = tuple(q)
        self._unit = unit
        self._histogram = histogram
        self._slopes: dict[str, Any] = {}

    def prepare(self) -> None:
        """Also compiles the derivatives of the activation functions."""
        super().prepare()
        if self._unit:  # Every block has unit 0.
            self._require_unit()
        self._slopes = {
            block.name: autodiff.slopes(block.activation)
            for block in self.blocks
            if block.activation is not None
        }

    def _require_unit(self) -> None:
        places = list(map(self.place, self.blocks))
        calls = autodiff.trace(
            self.model, [place.layer for place in places], self.probe.inputs
        )
        called = {call.layer: call for call in calls}
        for block, place in zip(self.blocks, places, strict=True):
            shape = getattr(called[place.layer], place.part).shape
            units = shape[block.feature_axis(len(shape))]
            if self._unit >= units:
                raise ValueError(
                    f"unit must be below {units}, the units of "
                    f"{block.name}. Received: unit={self._unit}"
                )

    def place(self, block: structure.Block) -> autodiff.Place:
        """The input of the activation."""
        return block.preactivation

    def read(self, block: structure.Block, values: Any) -> Iterable[Reading]:
        """The percentiles, moments and shares of one block."""
        unit = values[..., self._unit : self._unit + 1]
        for part, of in (((), values), ((f"unit{self._unit}",), unit)):
            found = percentiles(of, self._q, seed=self._seed)
            for q, value in zip(self._q, found, strict=True):
                yield self._tag(block, q, *part), value
        if self._histogram:
            found = percentiles(values, _POINTS, seed=self._seed)
            yield self.tag(block.name, "histogram"), found
        rows = samples.rows(values, seed=self._seed)
        for name, value in moments(rows)._asdict().items():
            yield self.tag(block.name, name), value
        if block.name in self._slopes:
            shares = saturation(self._slopes[block.name](rows))
            for name, value in shares._asdict().items():
                yield self.tag(block.name, name), value

    def category(self) -> Category:
        """Two bands per block: all units, and one."""
        low, high = min(self._q), max(self._q)
        lines = (low, sorted(self._q)[len(self._q) // 2], high)
        names = ", ".join(map(tags.percentile_name, lines))
        charts = [
            Band(
                f"{number} {block.name}, {part[0] if part else 'all units'}: "
                f"{names}",
                *(self._tag(block, q, *part) for q in lines),
            )
            for number, block in enumerate(self.blocks, 1)
            for part in ((), (f"unit{self._unit}",))
        ]
        overview = [
            Lines(
                f"every layer: {name}",
                [self.tag(tags.EVERY_LAYER, name)],
            )
            for name in ("mean", "std", "saturated", "dead")
        ]
        return Category("Percentiles", charts, overview)

    def _tag(self, block: structure.Block, q: float, *part: str) -> str:
        return self.tag(block.name, *part, tags.percentile_name(q))
