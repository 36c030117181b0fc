# SPDX-License-Identifier: Apache-2.0
"""Schedule + probe + measure -> summaries, as Keras callbacks.

The callbacks only observe: models run in a scope in which no variable,
optimizer or random state can change, so they do not affect the weights of a
run. Nor can a failed measurement end a run: wrong arguments are reported before
the first step; later errors are noted and training continues.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from analysis import autodiff, probes, structure, tags
from analysis.callbacks.steps import StepCallback
from analysis.layout import Category
from analysis.readings import Sink
from analysis.schedules import Schedule
from keras_bn.errors import reason

_LOG = logging.getLogger(__name__)

#: A tag and its value; an array becomes a histogram.
Reading = tuple[str, Any]


class MeasureCallback(StepCallback):
    """Measures at the steps of a schedule.

    If several steps run at once and one of them is scheduled, the measurement
    is taken after the last of them and recorded at that last step.

    Args:
        writer: Where to write: event files, or `Readings`.
        schedule: The steps to measure at.
        probe: The examples: a `Probe`, arrays, `(inputs, targets)`, or a data
            set. At most `examples` are taken, unless it is a `Probe`.
        layers: What to measure, see `analysis.structure.blocks`; `None` for the
            default.
        seed: Seed of every random choice.

    Attributes:
        measure: First part of the tags.
        schedule: The steps at which it must be called.
        how_to_read: Explanation of its charts on the dashboard, in Markdown.
        examples: The most examples to take, by default.
        takes_gradients: Whether it takes gradients of the loss if the probe
            has targets.
        needs_targets: Whether the probe must have targets.
        needs_a_step: Whether it compares the model before and after a step.
        blocks: The measured blocks, once training has begun.

    Raises:
        ValueError: If the probe has no examples; before the first step, if the
            model lacks the layers or does not accept the probe.
    """

    measure = ""
    how_to_read = ""
    examples = 1000
    takes_gradients = False
    needs_targets = False
    needs_a_step = False

    def __init__(
        self,
        writer: Sink,
        *,
        schedule: Schedule,
        probe: Any,
        layers: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.schedule = self._due = schedule
        self.probe = probes.as_probe(probe, size=self.examples, seed=seed)
        self.blocks: list[structure.Block] = []
        self._writer = writer
        self._layers = layers
        self._seed = seed
        self._missing: dict[str, str] = {}
        self._warned: set[str] = set()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Closes what an interrupted `fit` has left open."""
        super().on_train_begin(logs)
        self._writer.close()

    def start(self) -> None:
        """Prepares to measure; measures the untrained model if scheduled."""
        self._writer.open(self.step, goes_on=self.goes_on)
        self.attach()
        if self.step == 0 and self._due(0):
            self._record()

    def steps_done(self, earlier: int) -> None:
        """Measures if one of the steps was scheduled."""
        if any(map(self._due, range(earlier + 1, self.step + 1))):
            self._record()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writes everything out."""
        super().on_train_end(logs)
        self._writer.close()

    def attach(self) -> None:
        """Finds the blocks in `self.model` and compiles what is needed.

        Raises:
            ValueError: If the model lacks the layers or refuses the probe, or
                the probe lacks targets.
        """
        try:
            if self.needs_targets and self.probe.targets is None:
                raise ValueError("the probe needs targets. Received: none")
            self.blocks = self.find_blocks()
            self.prepare()
        except ValueError as error:
            raise ValueError(
                f"{self.measure}: {reason(error)} "
                f"(the probe's inputs: {_shapes(self.probe.inputs)})"
            ) from error

    def find_blocks(self) -> list[structure.Block]:
        """The parts of the model to measure."""
        return structure.blocks(
            self.model, self._layers, inputs=self.probe.inputs
        )

    def prepare(self) -> None:
        """Compiles what is needed, once the blocks are known."""

    def look(self) -> Iterator[Reading]:
        """Measures now; notes and skips what fails."""
        for layer, readings in self.parts():
            try:
                yield from readings()
            except Exception as error:
                self._note(layer, error)

    def parts(
        self,
    ) -> Iterator[tuple[str, Callable[[], Iterable[Reading]]]]:
        """Names of what is measured, with the functions that measure it."""
        raise NotImplementedError

    def category(self) -> Category:
        """The charts of this measure on the dashboard."""
        raise NotImplementedError

    def tag(self, layer: str, *rest: str) -> str:
        """The tag of a curve of this measure."""
        return tags.tag(self.measure, layer, *rest)

    def _record(self) -> None:
        try:
            for tag, value in self.look():
                if np.ndim(value):
                    self._writer.histogram(tag, value, step=self.step)
                else:
                    self._writer.scalar(tag, float(value), step=self.step)
        except Exception as error:
            self._note("all", error)
        for layer, why in self._missing.items():
            name = tags.tag("missing", self.measure, layer)
            self._writer.text(name, why, step=self.step)
        self._missing.clear()
        self._writer.flush()

    def _note(self, layer: str, error: Exception) -> None:
        self._missing[layer] = why = reason(error)
        if layer not in self._warned:
            self._warned.add(layer)
            _LOG.warning(
                "%s of %s was not measured at step %d: %s",
                self.measure,
                layer,
                self.step,
                why,
            )


class CapturingCallback(MeasureCallback):
    """Measures one tensor of each block by itself.

    Attributes:
        training: Whether the model runs in training mode, with the probe as
            one batch.
    """

    training = False

    def prepare(self) -> None:
        """Compiles the model up to the blocks' tensors."""
        self._capture = autodiff.capture(
            self.model,
            list(map(self.place, self.blocks)),
            self.probe.inputs,
            training=self.training,
        )

    def parts(
        self,
    ) -> Iterator[tuple[str, Callable[[], Iterable[Reading]]]]:
        """The blocks; reading one fails if its values are not all finite."""
        captured = self._capture()
        for block in self.blocks:
            values = block.channels_last(captured[self.place(block)])

            def readings(
                block: structure.Block = block, values: Any = values
            ) -> Iterable[Reading]:
                check_finite(values)
                return self.read(block, values)

            yield block.name, readings

    def place(self, block: structure.Block) -> autodiff.Place:
        """The tensor to measure."""
        raise NotImplementedError

    def read(self, block: structure.Block, values: Any) -> Iterable[Reading]:
        """The readings of one block's tensor `[N, ...]`."""
        raise NotImplementedError


def check_finite(*arrays: ArrayLike) -> None:
    """Raises `ValueError` if an array holds NaN or infinity."""
    for array in map(np.asarray, arrays):
        bad = np.size(array) - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(
                f"{bad:,} of {np.size(array):,} values are not finite"
            )


def _shapes(inputs: Any) -> str:
    return str(keras.tree.map_structure(lambda x: np.asarray(x).shape, inputs))
