# SPDX-License-Identifier: Apache-2.0
"""The loss along its own gradient."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras

from analysis import autodiff, structure
from analysis.callbacks.base import MeasureCallback, Reading, check_finite
from analysis.layout import Band, Category, Lines
from analysis.measures import landscape
from analysis.readings import Sink

_NETWORK = "network"


class LandscapeCallback(MeasureCallback):
    """Loss and gradient at several step sizes along the gradient.

    Writes under `landscape/network/`, on the probe in training mode: the
    `loss`; `loss_low` and `loss_high`, its range along the gradient; the
    largest `gradient_change`; and `smoothness`, the effective
    beta-smoothness (arXiv 1805.11604).

    Args:
        writer: Where to write.
        multiples: Step sizes, as multiples of the learning rate.
        **options: See `MeasureCallback`; the probe needs targets.
    """

    measure = "landscape"
    how_to_read = """\
Where steps of half, one, two and four times the learning rate against the
gradient would lead: the band is the range of losses there, the line is the
present loss. A narrow band and a small `smoothness` (how much the gradient
changes per distance) mean that the gradient stays a good guide for larger steps
(arXiv 1805.11604)."""
    examples = 256
    takes_gradients = needs_targets = True

    def __init__(
        self,
        writer: Sink,
        *,
        multiples: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
        **options: Any,
    ) -> None:
        super().__init__(writer, **options)
        self._multiples = tuple(multiples)

    def find_blocks(self) -> list[structure.Block]:
        """No blocks: the network is measured as a whole."""
        return []

    def prepare(self) -> None:
        """Compiles loss and gradient."""
        self._loss_and_gradients = autodiff.loss_and_gradients(
            self.model, self.probe.inputs, self.probe.targets
        )

    def parts(
        self,
    ) -> Iterator[tuple[str, Callable[[], Iterable[Reading]]]]:
        """The network as a whole."""
        yield _NETWORK, self._readings

    def category(self) -> Category:
        """The range of losses, and two lines."""
        loss, low, high, change, smoothness = (
            self.tag(_NETWORK, name)
            for name in (
                "loss",
                "loss_low",
                "loss_high",
                "gradient_change",
                "smoothness",
            )
        )
        return Category(
            "Loss along the gradient",
            [
                Band("loss and its range along the gradient", low, loss, high),
                Lines("largest change of the gradient", [change]),
                Lines("effective smoothness", [smoothness]),
            ],
        )

    def _readings(self) -> Iterable[Reading]:
        weights = autodiff.arrays(self.model.trainable_variables)
        check_finite(*weights)
        rate = self.model.optimizer.learning_rate
        rate = float(keras.ops.convert_to_numpy(rate))
        found = landscape.along_gradient(
            self._loss_and_gradients,
            weights,
            [rate * multiple for multiple in self._multiples],
        )
        check_finite(found.losses)
        yield self.tag(_NETWORK, "loss"), found.loss
        yield self.tag(_NETWORK, "loss_low"), found.losses.min()
        yield self.tag(_NETWORK, "loss_high"), found.losses.max()
        change = found.gradient_changes.max()
        yield self.tag(_NETWORK, "gradient_change"), change
        yield self.tag(_NETWORK, "smoothness"), found.smoothness
