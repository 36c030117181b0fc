# SPDX-License-Identifier: Apache-2.0
"""Singular values of the Jacobians of blocks."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from analysis import autodiff, structure, tags
from analysis.callbacks.base import CapturingCallback, Reading
from analysis.layout import Category, Lines
from analysis.measures.jacobian import Jacobian, Mode
from analysis.measures.lanczos import Effort
from analysis.measures.spectra import Method
from analysis.readings import Sink
from keras_bn.arguments import one_of

#: Number of quantiles of a density that make up its histogram.
_POINTS = 200

#: One random vector per example is enough, as charts show means over examples.
_EFFORT = Effort(iterations=8, probes=1)


class JacobianCallback(CapturingCallback):
    """Singular values of each block's Jacobian.

    A block reaches from the input of its linear layer to its activation.
    Writes under `jacobian/<layer>/<mode>/` the largest values `s1 .. s<k>`,
    `mean_square` and `isometry_distance`, means over the probe's examples;
    the examples' median `condition_number`; and the histogram `spectrum`. If a
    block is too large for the exact spectrum, its density is estimated: then
    `s1` is approximate and `s2 .. s<k>` are missing.

    Args:
        writer: Where to write.
        mode: `"inference"` or `"batch"`. In batch mode the block, and the
            layers before it, run in training mode on the probe as one batch,
            which couples the examples.
        k: How many of the largest values get a curve; 1 or more.
        method: `"auto"`, `"exact"` or `"lanczos"`, see
            `analysis.jacobian_spectrum`; not `"iterative"`, which does not
            give the whole spectrum.
        **options: See `MeasureCallback`.

    Raises:
        ValueError: See `MeasureCallback`; also for another `mode` or `method`,
            or a `k` below 1.
    """

    measure = "jacobian"
    how_to_read = """\
How much a block stretches small changes of its input. `s1` is the largest
singular value of its Jacobian, `mean_square` the mean of the squares of all
singular values. Multiplied by min(1, inputs / outputs), `mean_square` is the
factor by which back-propagation through the block changes the squared norm of a
gradient of random direction. The paper conjectures that batch normalization
brings all singular values near 1, which preserves the size of gradients
(section 3.3). `isometry_distance` is 0 if all singular values are 1. The
spectrum is under *histograms*."""
    examples = 20

    def __init__(
        self,
        writer: Sink,
        *,
        mode: Mode = "inference",
        k: int = 5,
        method: Method | Literal["auto"] = "auto",
        **options: Any,
    ) -> None:
        super().__init__(writer, **options)
        one_of("mode", mode, ("inference", "batch"))
        one_of("method", method, ("auto", "exact", "lanczos"))
        if k < 1:
            raise ValueError(f"k must be 1 or more. Received: k={k}")
        self._mode: Mode = mode
        self.training = mode == "batch"
        self._k = k
        self._method: Method | Literal["auto"] = method
        self._jacobians: dict[str, Jacobian] = {}

    def prepare(self) -> None:
        """Makes one compiled Jacobian per block."""
        super().prepare()
        self._jacobians = {
            block.name: Jacobian(block, mode=self._mode)
            for block in self.blocks
        }

    def place(self, block: structure.Block) -> autodiff.Place:
        """The input of the block."""
        return block.input

    def read(self, block: structure.Block, values: Any) -> Iterable[Reading]:
        """The singular values of one block."""
        spectrum = self._jacobians[block.name].spectrum(
            values, method=self._method, seed=self._seed, effort=_EFFORT
        )
        exact = spectrum.method == "exact"
        largest = np.atleast_2d(spectrum.values).mean(axis=0)
        for i, value in enumerate(largest[: self._k if exact else 1], 1):
            yield self._tag(block, f"s{i}"), value
        yield self._tag(block, "mean_square"), spectrum.mean_square.mean()
        distance = spectrum.isometry_distance.mean()
        yield self._tag(block, "isometry_distance"), distance
        condition = np.median(spectrum.condition_number)
        yield self._tag(block, "condition_number"), condition
        points = (np.arange(_POINTS) + 0.5) / _POINTS
        shown = spectrum.values if exact else spectrum.quantiles(points)
        yield self._tag(block, "spectrum"), shown

    def category(self) -> Category:
        """A chart of the largest values per block."""
        names = [f"s{i}" for i in range(1, self._k + 1)]
        charts = [
            Lines(
                f"{number} {block.name}, {self._mode}: s1 to s{self._k}",
                [self._tag(block, name) for name in names],
            )
            for number, block in enumerate(self.blocks, 1)
        ]
        overview = [
            Lines(title, [self.tag(tags.EVERY_LAYER, self._mode, name)])
            for name, title in (
                ("s1", f"every layer, {self._mode}: largest"),
                ("mean_square", f"every layer, {self._mode}: mean square"),
            )
        ]
        title = "Jacobian singular values"
        if self._mode == "batch":
            title += ", batch"
        return Category(title, charts, overview)

    def _tag(self, block: structure.Block, statistic: str) -> str:
        return self.tag(block.name, self._mode, statistic)
