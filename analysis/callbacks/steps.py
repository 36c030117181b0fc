# SPDX-License-Identifier: Apache-2.0
"""Counts the steps of training, in any `fit`."""

import weakref
from collections.abc import MutableMapping
from typing import Any

import keras

#: By model: the step at which training ended, by the optimizer's count, which
#: leaves out steps whose float16 gradients overflow.
_STEPS: MutableMapping[keras.Model, dict[int, int]] = (
    weakref.WeakKeyDictionary()
)


class StepCallback(keras.callbacks.Callback):
    """Counts steps across epochs, resumed runs and steps per execution.

    A step is a batch, even if the optimizer counts differently, for instance
    because it accumulates the gradients of several batches.

    Attributes:
        step: The number of steps made.
        goes_on: Whether training continues: with the same callback, in a later
            epoch than the first, or with a model that Keras has restored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.goes_on = False
        self._epoch = 0
        self._epoch_start = 0
        self._waits = False
        self._counted: keras.Model | None = None
        self._counted_before = 0
        #: By how much `step` exceeded the optimizer's count at the beginning.
        self._more = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Waits, since other callbacks may still restore an interrupted run."""
        del logs
        self._waits = True

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Learns which epoch it is."""
        del logs
        self._epoch = epoch

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Learns at which step, and where in the epoch, training begins."""
        del logs
        self._start_if_waiting()
        self._epoch_start = self.step - batch
        if self._may_be_fewer():
            self._counted_before = self._steps_of_optimizer()
        self.steps_ahead()

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Counts."""
        del logs
        earlier, done = self.step, batch + 1
        # The last execution of an epoch may have fewer batches than Keras says.
        self.step = self._epoch_start + min(done, self._length() or done)
        if self._may_be_fewer():
            counted = self._steps_of_optimizer() - self._counted_before
            if 0 < counted < self.step - earlier:
                self.step = earlier + counted
        self.steps_done(earlier)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts: a resumed run may first make up for a missed evaluation."""
        del logs
        self._start_if_waiting()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remembers the step at which training ended."""
        del logs
        known = _STEPS.setdefault(self.model, {})
        known[self._steps_of_optimizer()] = self.step

    def _start_if_waiting(self) -> None:
        if self._waits:
            self._waits = False
            self._begin()
            self.start()
            self._counted = self.model  # Not if `start` has raised.

    def _begin(self) -> None:
        given = (self.params or {}).get("step")
        again = self._counted is self.model
        counted = self._steps_of_optimizer()
        if given is not None:
            self.step = given
        elif counted or not again:  # Else a train_step has its own optimizers.
            known = _STEPS.get(self.model, {}) if counted else {}
            guess = counted + (self._more if again else 0)
            self.step = known.get(counted, max(guess, 0))
        restored = getattr(self.model, "_initial_epoch", None) is not None
        self.goes_on = again or restored or bool(given or self._epoch)
        self._more = self.step - counted

    def _may_be_fewer(self) -> bool:
        """Whether only the optimizer knows how many steps an execution had."""
        return self.model.steps_per_execution > 1 and not self._length()

    def _length(self) -> int:
        """Steps of an epoch; 0 if that is not known."""
        return (self.params or {}).get("steps") or 0

    def _steps_of_optimizer(self) -> int:
        """Batches that the optimizer has counted; 0 if there is none.

        The count leaves out batches whose float16 gradients overflow.
        """
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            return 0
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        # The public property counts several accumulated batches as one.
        counted = getattr(inner, "_iterations", inner.iterations)
        return int(keras.ops.convert_to_numpy(counted))

    def start(self) -> None:
        """Called before the first step, at `self.step`."""

    def steps_ahead(self) -> None:
        """Called before further steps are made, at `self.step`."""

    def steps_done(self, earlier: int) -> None:
        """Called after the steps `earlier + 1 .. self.step`."""
