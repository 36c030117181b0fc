# SPDX-License-Identifier: Apache-2.0
"""Sizes of gradients, weights and steps."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from analysis import autodiff, tags
from analysis.callbacks.base import Reading, check_finite
from analysis.callbacks.updates import Array, UpdateCallback
from analysis.layout import Category, Lines
from analysis.measures import gradients


class GradientsCallback(UpdateCallback):
    """Norms of the gradient and of the weights of each layer with a kernel.

    Writes `gradients/<layer>/norm`, of the loss on the probe in training
    mode, if the probe has targets; `weights/<layer>/norm`; its `growth` since
    the start of training; and `update_ratio`, the size of the last step over
    that of the weights.

    Args:
        writer: Where to write.
        **options: See `MeasureCallback`.
    """

    measure = "gradients"
    how_to_read = """\
`gradients/.../norm` is the size of the loss's gradient with respect to a
layer's weights: layers should not differ by orders of magnitude. `update_ratio`
is the size of one step relative to that of the weights: values near .001 are
common; with much larger values training is unstable, with much smaller ones the
layer hardly learns. With normalization, weights may grow (`growth` since the
start) without harm, because larger weights get smaller gradients (section 3.3
of the paper)."""
    takes_gradients = True

    def prepare(self) -> None:
        """Compiles the gradient; finds the initial norms of the weights."""
        self._gradient: Any = None
        if self.probe.targets is not None:
            self._gradient = autodiff.loss_and_gradients(
                self.model, self.probe.inputs, self.probe.targets
            )
        now = self.weights()
        # In float32, like the norms that a resumed run reads from event files.
        self._first_norms = {
            name: float(np.float32(gradients.norm([now[i] for i in own])))
            for name, own in self.own.items()
        }
        if self.step:
            self._first_norms.update(self._norms_at_the_start())

    def parts(
        self,
    ) -> Iterator[tuple[str, Callable[[], Iterable[Reading]]]]:
        """The gradient as a whole, then each block's weights."""
        now = self.weights()
        if self._gradient is not None:
            yield "network", partial(self._gradient_norms, now)
        for name in self.own:
            yield name, partial(self._weight_readings, name, now)

    def category(self) -> Category:
        """One chart per statistic, all layers together."""
        charts = {
            "norm of the gradient": ("gradients", "norm"),
            "size of a step over that of the weights": (
                "weights",
                "update_ratio",
            ),
            "norm of the weights over its initial value": ("weights", "growth"),
        }
        return Category(
            "Gradients and weights",
            [
                Lines(title, [tags.tag(m, tags.EVERY_LAYER, s)])
                for title, (m, s) in charts.items()
                if m == "weights" or self.probe.targets is not None
            ],
        )

    def _gradient_norms(self, now: list[Array]) -> Iterable[Reading]:
        _, found = self._gradient(now)
        for name, own in self.own.items():
            size = gradients.norm([found[i] for i in own])
            check_finite(size)
            yield self.tag(name, "norm"), size

    def _weight_readings(
        self, name: str, now: list[Array]
    ) -> Iterable[Reading]:
        own = self.own[name]
        weights = [now[i] for i in own]
        check_finite(*weights)
        size = gradients.norm(weights)
        yield tags.tag("weights", name, "norm"), size
        if self._first_norms[name]:
            growth = size / self._first_norms[name]
            yield tags.tag("weights", name, "growth"), growth
        if self.before is not None:
            before = [self.before[i] for i in own]
            ratio = gradients.update_ratio(before, weights)
            yield tags.tag("weights", name, "update_ratio"), ratio

    def _norms_at_the_start(self) -> dict[str, float]:
        """What the run wrote before it was interrupted."""
        names = {tags.tag("weights", n, "norm"): n for n in self.own}
        written = sorted(
            (step, tag, value)
            for tag, step, value in self._writer.scalars()
            if tag in names
        )
        first: dict[str, float] = {}
        for _, tag, value in written:
            first.setdefault(names[tag], value)
        return first
