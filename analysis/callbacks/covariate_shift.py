# SPDX-License-Identifier: Apache-2.0
"""Internal covariate shift of one step, as moments and as gradients."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from analysis import autodiff, structure, tags
from analysis.autodiff import Place
from analysis.callbacks.base import Reading, check_finite
from analysis.callbacks.updates import UpdateCallback
from analysis.layout import Category, Lines
from analysis.measures import covariate_shift

_CHARTS = {
    "cosine": "cosine of gradients before and after a step of the layers below",
    "distance": "relative distance between these gradients",
    "mean_drift": "drift of input means per step, in standard deviations",
    "std_drift": "drift of the log of input standard deviations per step",
}


class CovariateShiftCallback(UpdateCallback):
    """How one step shifts what each layer sees.

    Writes under `covariate_shift/<layer>/`, for one step and on the probe in
    training mode: `mean_drift` and `std_drift` of the layer's input; and,
    following arXiv 1805.11604, the `cosine` and the relative `distance` of
    two gradients of the layer, one before the step and one after only the
    layers before it have taken the step. Costs a gradient per layer.

    Args:
        writer: Where to write.
        **options: See `MeasureCallback`; the probe needs targets.
    """

    measure = "covariate_shift"
    how_to_read = """\
How one step changes what each layer sees, with the layer's own weights held
fixed. `mean_drift` and `std_drift` are the paper's internal covariate shift:
how far the moments of the layer's inputs move. `cosine` shows what the shift
means for learning (arXiv 1805.11604): 1 if the layer's gradient keeps its
direction when the layers below take their step, 0 if it turns by a right
angle."""
    takes_gradients = needs_targets = needs_a_step = True

    def prepare(self) -> None:
        """Compiles the gradient, and the model up to the layers' inputs."""
        self._gradient = autodiff.loss_and_gradients(
            self.model, self.probe.inputs, self.probe.targets
        )
        # A layer that runs in a loop, such as a recurrent cell, does not have
        # one input tensor.
        layers = [block.layers[0] for block in self.blocks]
        calls = autodiff.trace(self.model, layers, self.probe.inputs)
        called = {call.layer for call in calls}
        self._fed = [b for b in self.blocks if b.layers[0] in called]
        in_order = structure.weighted_layers(
            self.model, inputs=self.probe.inputs
        )
        order = [*dict.fromkeys(self.indices(in_order))]
        self._ahead = [
            order[: min(map(order.index, own))] for own in self.own.values()
        ]
        # A new dropout mask after the step would look like drift.
        self._random = structure.random_states(self.model)
        self._capture = autodiff.capture(
            self.model,
            [block.input for block in self._fed],
            self.probe.inputs,
            training=True,
            held=self._random,
        )
        self._inputs_before: dict[Place, Any] = {}
        self._random_before: list[Any] = []

    def keep(self) -> None:
        """Also keeps the layers' inputs before the step."""
        self._random_before = autodiff.arrays(self._random)
        self._inputs_before = self._capture(self._random_before)
        super().keep()

    def parts(
        self,
    ) -> Iterator[tuple[str, Callable[[], Iterable[Reading]]]]:
        """The drift of each layer's input, then all gradients."""
        if self.before is None:
            return
        inputs = self._capture(self._random_before)
        for block in self._fed:
            yield (
                block.name,
                partial(self._drift, block, inputs),
            )
        yield "network", self._shifts

    def category(self) -> Category:
        """One chart per statistic, all layers together."""
        return Category(
            "Covariate shift",
            [
                Lines(title, [self.tag(tags.EVERY_LAYER, name)])
                for name, title in _CHARTS.items()
            ],
        )

    def _drift(
        self, block: structure.Block, inputs: dict[Place, Any]
    ) -> Iterable[Reading]:
        check_finite(inputs[block.input])
        drift = covariate_shift.moment_drift(
            block.channels_last(self._inputs_before[block.input]),
            block.channels_last(inputs[block.input]),
        )
        yield self.tag(block.name, "mean_drift"), drift.mean
        yield self.tag(block.name, "std_drift"), drift.std

    def _shifts(self) -> Iterable[Reading]:
        shifts = covariate_shift.gradient_shifts(
            lambda weights: self._gradient(weights)[1],
            list(self.own.values()),
            self.before or [],
            self.weights(),
            ahead=self._ahead,
        )
        for name, shift in zip(self.own, shifts, strict=True):
            if not math.isnan(shift.cosine):
                yield self.tag(name, "cosine"), shift.cosine
                yield self.tag(name, "distance"), shift.distance
