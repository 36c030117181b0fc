# SPDX-License-Identifier: Apache-2.0
"""Runs the steps of a run in stretches, and what happens between them.

A stretch is the steps up to the next scheduled event (an evaluation, a
checkpoint, a callback's measurement), in one call of `Steps.train`: nothing is
measured late, and with data on the device Python does not run in between.
"""

import contextlib
import logging
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import keras
import numpy as np

from keras_bn import failures
from keras_bn.backend import (
    checkpoints,
    diagnosis,
    execution,
    strategies,
)
from keras_bn.errors import ExpectedError
from keras_bn.recipes import Recipe
from keras_bn.run_folder import RunFolder
from keras_bn.training import signals
from keras_bn.training.building import trainable_size
from keras_bn.training.result import Result

_LOG = logging.getLogger(__name__)


class TrainingError(ExpectedError):
    """A run that cannot go on."""


class Loop:
    """One run.

    Args:
        recipe: What is trained.
        model: Its model, compiled.
        steps: Its steps.
        strategy: Where they run.
        folder: Where checkpoints and the result go, opened; `None` keeps
            nothing.
        callbacks: Keras callbacks; see `keras_bn.training.run`.
        progress: Whether to show a progress bar on standard output.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        model: keras.Model,
        steps: execution.Steps,
        strategy: Any,
        folder: RunFolder | None,
        callbacks: Sequence[keras.callbacks.Callback],
        progress: bool,
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._steps = steps
        self._strategy = strategy
        self._folder = folder
        self._state: dict[str, Any] = {
            "seconds": 0.0,
            "evaluations": [],
            # Steps since the last evaluation, and sums of their metrics.
            "since": [0, 0.0, 0.0],
        }
        self._checkpoints = folder and checkpoints.Checkpoints(
            folder.checkpoints, model, self._state
        )
        self._schedules: list[Callable[[int], bool]] = [
            callback.schedule
            for callback in callbacks
            if hasattr(callback, "schedule")
        ]
        self._callbacks = keras.callbacks.CallbackList(
            list(callbacks), model=model
        )
        self._anywhere = strategies.make_any(strategy)
        self._first = strategies.make_first(strategy)
        self._progress = progress
        #: When it would have started, had nothing interrupted it.
        self._started = 0.0

    def run(self) -> Result:
        """Trains, from the newest checkpoint on if there is one.

        Raises:
            TrainingError: If the loss stops being finite.
            keras_bn.failures.InputError: If a batch cannot be read;
                the steps before are in a checkpoint.
            ValueError: If the run has done more steps than it should have.
            CheckpointError: If there is a checkpoint and it cannot be restored.
        """
        step = self._begin()
        self._started = time.monotonic() - self._state["seconds"]
        with (
            signals.stop_training(self._model) as received,
            self._progress_bar(step) as show,
        ):
            self._callbacks.on_train_begin()
            self._evaluate_what_is_left(step)
            stop = False
            while step < self._recipe.steps and not stop:
                step = self._stretch(step)
                if self._folder:
                    self._folder.delete_replaced()
                self._count_seconds()
                if self._saves_at(step):
                    self._save(step)
                show(step)
                stop = self._stops(received)
            self._callbacks.on_train_end()
        result = Result(
            steps=step,
            seconds=self._state["seconds"],
            parameters=trainable_size(self._model),
            evaluations=self._state["evaluations"],
            interrupted=received[0] if received else 0,
        )
        if self._folder and self._checkpoints:
            try:  # First, so that a run with a result has a checkpoint too,
                self._checkpoints.save(step)
            finally:  # unless that cannot be written.
                self._folder.write_result(result)
        return result

    def _count_seconds(self) -> None:
        self._state["seconds"] = time.monotonic() - self._started

    def _stops(self, received: list[int]) -> bool:
        """Whether any process has to stop; adds the signals of the others."""
        stop, *got = self._anywhere(
            [
                self._model.stop_training,
                *(n in received for n in signals.ENDING),
            ]
        )
        here = set(received)
        received += [
            number
            for number, anywhere in zip(signals.ENDING, got, strict=True)
            if anywhere and number not in here
        ]
        return stop

    def _begin(self) -> int:
        """Restores a checkpoint, if any, and gives all processes its state."""
        self._require_one_recipe()
        step = 0
        if self._folder and self._checkpoints:
            if self._checkpoints.newest < 0 and self._folder.has_begun():
                raise checkpoints.CheckpointError(
                    f"the run in {self._folder.path} has no checkpoint to go "
                    "on from. Start again with --overwrite, or choose another "
                    "--run_name"
                )
            step = self._checkpoints.restore()
            if step > self._recipe.steps:
                raise ValueError(
                    f"steps must be >= {step:,}, which the run has done. "
                    f"Received: steps={self._recipe.steps}"
                )
            device = strategies.describe(self._strategy)
            self._folder.write_recipe(self._recipe, device=device)
            self._save(step)
        variables = checkpoints.variables(self._model)
        arrays = [np.asarray(step), *map(np.asarray, variables)]
        first = strategies.from_first(self._strategy, arrays)
        for variable, ours, theirs in zip(
            variables, arrays[1:], first[1:], strict=True
        ):
            if theirs is not ours:
                variable.assign(theirs)
        step = int(first[0])
        self._callbacks.set_params({"step": step})
        return step

    def _require_one_recipe(self) -> None:
        ours = zlib.crc32(self._recipe.to_json().encode())
        if self._anywhere([ours != self._first(ours)])[0]:
            raise ValueError(
                "all processes of a run must be given the same recipe. "
                "Received: different ones"
            )

    def _stretch(self, step: int) -> int:
        """Trains until the next step at which something is due."""
        every = self._recipe.evaluate_every
        period, inside = divmod(step, every)
        if inside == 0:
            self._callbacks.on_epoch_begin(period)
        # Only the first process has callbacks, which may ask for a stop.
        count = self._first(self._steps_to_next_stop(step))
        self._callbacks.on_train_batch_begin(inside)
        with self._saving_what_came_before(step):
            metrics = self._steps.train(step, count)
        self._check_finite(step, metrics)
        count = len(metrics)
        step += count
        self._add(metrics)
        self._callbacks.on_train_batch_end(inside + count - 1, self._means())
        if self._evaluates_at(step):
            self._evaluate(step)
        return step

    def _evaluate_what_is_left(self, step: int) -> None:
        """Evaluates a restored step that was saved before its evaluation."""
        trained = self._first(self._state["since"][0])
        if trained and self._evaluates_at(step):
            self._evaluate(step)
            self._count_seconds()
            self._save(step, again=True)

    def _evaluate(self, step: int) -> None:
        with self._saving_what_came_before(step):
            logs = self._evaluation(step, self._means())
        period = (step - 1) // self._recipe.evaluate_every
        self._callbacks.on_epoch_end(period, logs)

    @contextlib.contextmanager
    def _saving_what_came_before(self, step: int) -> Iterator[None]:
        """Saves the step if a batch cannot be read in the block."""
        try:
            yield
        except failures.InputError:
            # One of several processes would wait for the others.
            if not strategies.several_processes(self._strategy):
                self._count_seconds()
                self._save(step)
            raise

    def _add(self, metrics: Any) -> None:
        """Adds to the sums since the last evaluation.

        In the order of the steps, so that the sums do not depend on how the
        steps were divided into stretches.
        """
        since = self._state["since"]
        for values in metrics.tolist():
            since[0] += 1
            for i, value in enumerate(values, 1):
                since[i] += value

    def _means(self) -> dict[str, float]:
        """Means since the last evaluation."""
        number, *totals = self._state["since"]
        means = [total / max(number, 1) for total in totals]
        return dict(zip(execution.METRICS, means, strict=True))

    def _check_finite(self, step: int, metrics: Any) -> None:
        """Ends the run at the first loss that is not finite."""
        bad = np.flatnonzero(~np.isfinite(metrics[:, 0]))
        if bad.size:
            before = step + int(bad[0])
            self._fail(f"the loss is {metrics[bad[0], 0]}", before)

    def _fail(self, what: str, step: int, *, training: bool = True) -> NoReturn:
        found, stays = self._trace(step, training=training)
        reasons = [f"{what} after {step} steps"]
        if found:
            reasons.append(f"The first thing that is not finite: {found}")
        if stays >= 0:
            reasons.append(f"The checkpoint of step {stays} stays")
        if found != diagnosis.BATCH:
            reasons.append(
                "A smaller learning_rate may keep it finite. Received: "
                f"learning_rate={self._recipe.learning_rate}"
            )
        raise TrainingError(". ".join(reasons))

    def _trace(self, step: int, *, training: bool) -> tuple[str, int]:
        """Repeats the steps from the last checkpoint to the bad one.

        Returns:
            The first thing that is not finite there, and the step of the
            checkpoint that stays; empty and -1 if these cannot be determined.
        """
        alone = not strategies.several_processes(self._strategy)
        if not alone or not self._checkpoints or self._checkpoints.newest < 0:
            return "", -1
        try:
            good = self._checkpoints.restore()
            at, most = good, self._recipe.steps_per_execution
            while at < step:
                at += len(self._steps.train(at, min(most, step - at)))
            found = diagnosis.first_bad_layer(
                self._model, self._steps.batch(step), training=training
            )
            if good == step and found != diagnosis.BATCH:
                # Its weights, though finite, lead only to this failure.
                good = self._checkpoints.fall_back()
        except (checkpoints.CheckpointError, failures.InputError) as error:
            _LOG.warning("%s", error)
            return "", -1
        return found, good

    def _evaluation(
        self, step: int, logs: dict[str, float]
    ) -> dict[str, float]:
        self._callbacks.on_test_begin()
        test_logs = self._steps.evaluate()
        if step == self._recipe.steps and not np.isfinite(test_logs["loss"]):
            # No further step would reveal it for the last weights.
            what = f"the test loss is {test_logs['loss']}"
            self._fail(what, step, training=False)
        self._callbacks.on_test_end(test_logs)
        self._state["since"] = [0, 0.0, 0.0]
        logs = {**logs, **{f"val_{k}": v for k, v in test_logs.items()}}
        self._state["evaluations"].append({"step": step, **logs})
        return logs

    def _steps_to_next_stop(self, step: int) -> int:
        most = min(self._recipe.steps_per_execution, self._recipe.steps - step)
        for count in range(1, most):
            if self._stops_at(step + count):
                return count
        return most

    def _stops_at(self, step: int) -> bool:
        return (
            self._evaluates_at(step)
            or self._saves_at(step)
            or any(schedule(step) for schedule in self._schedules)
        )

    def _evaluates_at(self, step: int) -> bool:
        last = step == self._recipe.steps
        return last or step % self._recipe.evaluate_every == 0

    def _saves_at(self, step: int) -> bool:
        return step % self._recipe.checkpoint_every == 0

    def _save(self, step: int, *, again: bool = False) -> None:
        """Saves; warns if that fails, for example on a full disk."""
        if self._checkpoints:
            try:
                self._checkpoints.save(step, again=again)
            except checkpoints.CheckpointError as error:
                _LOG.warning("%s; training goes on", error)

    def _shown(self) -> dict[str, float]:
        evaluations = self._state["evaluations"]
        if not evaluations:
            return {}
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        return {name: evaluations[-1][name] for name in names}

    @contextlib.contextmanager
    def _progress_bar(self, first: int) -> Iterator[Callable[[int], None]]:
        """Gives a function that shows a step; the context ends the line."""
        if not self._progress:
            yield lambda _: None
            return
        bar = _ProgressBar(
            self._recipe.steps,
            first=first,
            interval=0.2 if sys.stdout.isatty() else 5.0,
            stateful_metrics=["loss", "accuracy", "val_loss", "val_accuracy"],
            unit_name="step",
        )
        shown = 0

        def show(step: int, *, last: bool = False) -> None:
            nonlocal shown
            shown = step
            bar.update(step, list(self._shown().items()), finalize=last)

        try:
            yield show
        finally:
            if shown:
                show(shown, last=True)


class _ProgressBar(keras.utils.Progbar):
    """Keras' bar for a run that may already have done some steps.

    Args:
        target: Steps of the whole run.
        first: Steps done before.
        **options: Options of Keras' bar.
    """

    def __init__(self, target: int, *, first: int, **options: Any) -> None:
        super().__init__(target, **options)
        self._first = first

    def _estimate_step_duration(self, current: int, now: float) -> float:
        """Over the steps since `first`; Keras would count from 0."""
        duration: float = super()._estimate_step_duration(
            current - self._first, now
        )
        return duration
