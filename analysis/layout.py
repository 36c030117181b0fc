# SPDX-License-Identifier: Apache-2.0
"""The custom-scalars page of TensorBoard: which curves share a chart."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from tensorboard.plugins.custom_scalar import layout_pb2

from analysis import tags

#: The most charts that a category may have to be open when the page loads.
MOST_OPEN = 24


@dataclasses.dataclass(frozen=True)
class Band:
    """A chart of a line within a band.

    Attributes:
        title: Of the chart.
        lower: Tag of the band's lower edge.
        middle: Tag of the line.
        upper: Tag of the band's upper edge.
    """

    title: str
    lower: str
    middle: str
    upper: str

    @property
    def tags(self) -> list[str]:
        """The tags of its curves."""
        return [self.lower, self.middle, self.upper]

    def proto(self) -> layout_pb2.Chart:
        """The chart as TensorBoard takes it."""
        chart = layout_pb2.Chart(title=self.title)
        chart.margin.series.add(
            value=self.middle, lower=self.lower, upper=self.upper
        )
        return chart


@dataclasses.dataclass(frozen=True)
class Lines:
    """A chart of several lines.

    Attributes:
        title: Of the chart.
        tags: Of the lines; one of `tags.EVERY_LAYER` stands for a line per
            layer. So the chart is the same for any network: TensorBoard merges
            the charts of all runs, but only those that are equal.
    """

    title: str
    tags: Sequence[str]

    def proto(self) -> layout_pb2.Chart:
        """The chart as TensorBoard takes it."""
        # A tag is matched as a regular expression from its start.
        every = re.escape(tags.EVERY_LAYER)
        patterns = [
            re.escape(tag).replace(every, "[^/]+") + "$" for tag in self.tags
        ]
        return layout_pb2.Chart(
            title=self.title,
            multiline=layout_pb2.MultilineChartContent(tag=patterns),
        )


Chart = Band | Lines


@dataclasses.dataclass(frozen=True)
class Category:
    """Charts under a common heading, in the order in which they are read.

    Attributes:
        title: The heading.
        charts: The charts.
        overview: Charts to show if the network has so many layers that
            `charts`, one or two per layer, are folded away.
    """

    title: str
    charts: Sequence[Chart]
    overview: Sequence[Chart] = ()


def layout(categories: Iterable[Category]) -> layout_pb2.Layout:
    """The page, without the categories that would be empty."""
    return layout_pb2.Layout(
        category=[
            proto
            for category in categories
            if category.charts
            for proto in _protos(category)
        ]
    )


def _protos(category: Category) -> list[layout_pb2.Category]:
    """The category; if it has many charts, they load only when opened."""
    if len(category.charts) <= MOST_OPEN:
        return [_proto(category.title, category.charts)]
    each = _proto(f"{category.title}: each layer", category.charts)
    each.closed = True
    if not category.overview:
        return [each]
    return [_proto(category.title, category.overview), each]


def _proto(title: str, charts: Sequence[Chart]) -> layout_pb2.Category:
    shown = [chart.proto() for chart in _as_shown(charts)]
    return layout_pb2.Category(title=title, chart=shown)


def _as_shown(charts: Sequence[Chart]) -> Sequence[Chart]:
    """TensorBoard shows the margin charts of a category from last to first."""
    bands = all(isinstance(chart, Band) for chart in charts)
    return charts[::-1] if bands else charts
