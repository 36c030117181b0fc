# SPDX-License-Identifier: Apache-2.0
"""Covariance of the inputs of blocks."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from analysis import autodiff, structure, tags
from analysis.callbacks.base import CapturingCallback, Reading
from analysis.layout import Category, Lines
from analysis.measures import covariance, samples
from analysis.measures.spectra import condition_number

_CHARTS = {
    "directions": "share of directions with 99% of the variance",
    "whitening_distance": "distance from white",
}


class CovarianceCallback(CapturingCallback):
    """Spectrum of the covariance of each block's input.

    Writes under `covariance/<layer>/` the `condition_number` (`inf` if some
    direction does not vary), `whitening_distance`, `directions` (the share of
    directions that hold 99% of the variance) and the histogram
    `log10_spectrum`.

    Args:
        writer: Where to write.
        **options: See `MeasureCallback`.
    """

    measure = "covariance"
    how_to_read = """\
How far the inputs of a block are from white, that is, from having the identity
as covariance matrix. `directions` is the share of principal directions that
hold 99% of the variance: near 0, the layer sees few independent numbers; near
1, its input uses the whole width. `whitening_distance` is 0 for white inputs;
normalizing each unit by itself leaves the part that is due to correlations.
Both need several times as many examples as units (for feature maps, positions
count as examples): with n examples, `directions` is at most (n - 1) / units.
The base-10 logarithms of the eigenvalues are under *histograms*."""

    def place(self, block: structure.Block) -> autodiff.Place:
        """The input of the block."""
        return block.input

    def read(self, block: structure.Block, values: Any) -> Iterable[Reading]:
        """The spectrum of one block's input."""
        rows = samples.rows(values, seed=self._seed)
        spectrum = covariance.covariance_spectrum(rows)
        statistics = {
            "condition_number": condition_number(spectrum),
            "whitening_distance": covariance.whitening_distance(spectrum),
            "directions": covariance.directions(spectrum),
        }
        for name, value in statistics.items():
            yield self.tag(block.name, name), value
        positive = spectrum[spectrum > spectrum[0] * np.finfo(float).eps]
        if len(positive):
            yield self.tag(block.name, "log10_spectrum"), np.log10(positive)

    def category(self) -> Category:
        """One chart per statistic, all blocks together."""
        return Category(
            "Covariance of inputs",
            [
                Lines(title, [self.tag(tags.EVERY_LAYER, name)])
                for name, title in _CHARTS.items()
            ],
        )
