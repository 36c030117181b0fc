# SPDX-License-Identifier: Apache-2.0
"""Recipe and data in, trained model and result out. Knows no flags.

A run goes in stretches: as many steps as there are until something is
scheduled (an evaluation, a checkpoint, a callback's measurement), all of them
one call into compiled code. Nothing is measured late and Python is out of the
way in between.

With `strategy="multiworker"` every process of the run calls `run`. All make
the same steps; the chief alone keeps the folder and has callbacks.
"""

import contextlib
import dataclasses
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import keras
import numpy as np

from keras_bn import models
from keras_bn.backend import checkpoints, execution, strategies
from keras_bn.backend.checkpoints import CheckpointError as CheckpointError
from keras_bn.data import ArrayDataset
from keras_bn.data.arrays import BatchOrder
from keras_bn.errors import ExpectedError
from keras_bn.population import PopulationStatistics
from keras_bn.recipes import Recipe
from keras_bn.run_folder import RunFolder

_LOG = logging.getLogger(__name__)

EVALUATION_BATCH = 1000
#: Images of one evaluation step, or a training batch if that is larger.
TEST_BATCH = 100
#: An `ArrayDataset`, or a `keras_bn.data.images.ImageDataset`.
Dataset = Any


class TrainingError(ExpectedError):
    """A run that cannot go on."""


@dataclasses.dataclass(kw_only=True)
class Result:
    """What a run came to.

    Attributes:
        steps: Steps done in all, resumed ones included.
        seconds: Wall-clock time of training, evaluation and callbacks.
        parameters: Number of trainable weights.
        evaluations: One dictionary per evaluation: `step`, `loss`, `accuracy`,
            `val_loss`, `val_accuracy`; the first two over the training
            batches since the evaluation before, the others over the test set.
        interrupted: Number of the signal that ended the run early, else 0.
    """

    steps: int
    seconds: float
    parameters: int
    evaluations: list[dict[str, float]]
    interrupted: int = 0

    @property
    def final(self) -> dict[str, float]:
        """The last evaluation; empty if there was none."""
        return self.evaluations[-1] if self.evaluations else {}

    @property
    def best(self) -> dict[str, float]:
        """The first evaluation with the highest test accuracy."""
        return max(
            self.evaluations, key=lambda e: e["val_accuracy"], default={}
        )


def check(recipe: Recipe, dataset: Dataset) -> None:
    """Raises the `ValueError` that `run` would, before anything is done."""
    _batch_order(recipe, dataset)
    images = len(dataset.input_shape) == 3
    if images != (recipe.model == "inception"):
        raise ValueError(
            "inception trains on cifar10, image_folder or tfrecords, mlp on "
            f"digits or mnist. Received: model={recipe.model}, "
            f"dataset={recipe.dataset}"
        )
    if recipe.width % 1 and not images:
        raise ValueError(
            "width must be a whole number of units for mlp. "
            f"Received: width={recipe.width}"
        )
    if recipe.norm == "per_activation" and not images:
        raise ValueError(
            "norm=per_activation is for feature maps. "
            f"Received: model={recipe.model}"
        )


def start(recipe: Recipe) -> tuple[str, bool]:
    """Takes hold of the devices; must come before anything of TensorFlow.

    Returns:
        What training runs on, and whether this process keeps the run's files.

    Raises:
        ValueError: If the machine lacks the devices, or `TF_CONFIG` is wrong.
    """
    strategy = _strategy(recipe)
    return strategies.describe(strategy), strategies.is_chief(strategy)


def describe(recipe: Recipe, dataset: Dataset) -> str:
    """The resolved recipe, its data and its model, for a person to read."""
    check(recipe, dataset)
    model = build_model(
        recipe, input_shape=dataset.input_shape, classes=dataset.classes
    )
    lines = [
        recipe.to_json(),
        f"training examples   {dataset.train_examples:>12,}",
        f"test examples       {dataset.test_examples:>12,}",
        f"trainable weights   {_trainable_size(model):>12,}",
        f"device              {start(recipe)[0]:>12}",
    ]
    if recipe.model == "inception":
        for name, sizes in models.output_sizes(model):
            lines.append(f"  {name:<18}{' x '.join(map(str, sizes)):>14}")
        return "\n".join(lines)
    for layer in model.layers:
        size = sum(math.prod(weight.shape) for weight in layer.weights)
        lines.append(f"  {layer.name:<18}{layer.output.shape!s:>14}{size:>10,}")
    return "\n".join(lines)


def summary(result: Result) -> str:
    """The result in one line."""
    final, best = result.final, result.best
    return (
        f"{result.steps:,} steps in {result.seconds:.1f} s: test accuracy "
        f"{final['val_accuracy']:.4f} at the end, best "
        f"{best['val_accuracy']:.4f} at step {best['step']:,}"
    )


def build_model(
    recipe: Recipe, *, input_shape: Sequence[int], classes: int
) -> keras.Model:
    """The recipe's model, compiled."""
    with _dtype_policy(recipe.mixed_precision):
        make = {"mlp": _mlp, "inception": _inception}[recipe.model]
        model = make(recipe, input_shape, classes)
        model.compile(
            optimizer=keras.optimizers.SGD(
                _learning_rate(recipe), momentum=recipe.momentum
            ),
            loss=[
                keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                for _ in model.outputs
            ],
            metrics=[["accuracy"] for _ in model.outputs],
            # Whoever calls `fit` on it gets Keras' default; ours is compiled
            # by the loop around it.
            jit_compile=False,
        )
    return model


def _mlp(
    recipe: Recipe, input_shape: Sequence[int], classes: int
) -> keras.Model:
    return models.mlp(
        input_size=math.prod(input_shape),
        classes=classes,
        width=int(recipe.width),
        depth=recipe.depth,
        norm=recipe.norm,
        activation=recipe.activation,
        weight_stddev=recipe.weight_stddev,
        dropout=recipe.dropout,
        seed=recipe.seed,
    )


def _inception(
    recipe: Recipe, input_shape: Sequence[int], classes: int
) -> keras.Model:
    return models.inception(
        classes=classes,
        image_size=input_shape[0],
        width=recipe.width,
        norm=recipe.norm,
        activation=recipe.activation,
        table=recipe.table,
        auxiliary_head=recipe.auxiliary_head,
        local_response_normalization=recipe.local_response_normalization,
        per_activation_blocks=recipe.per_activation_blocks,
        initial_weight_scale=recipe.initial_weight_scale,
        dropout=recipe.dropout,
        l2=recipe.l2,
        seed=recipe.seed,
    )


def _learning_rate(recipe: Recipe) -> Any:
    if recipe.learning_rate_decay == 1.0:
        return recipe.learning_rate
    return keras.optimizers.schedules.ExponentialDecay(
        recipe.learning_rate,
        decay_steps=recipe.learning_rate_decay_steps,
        decay_rate=recipe.learning_rate_decay,
        staircase=True,
    )


def restore(folder: RunFolder, dataset: Dataset) -> tuple[keras.Model, int]:
    """The model of a run, with the weights of its newest checkpoint.

    Args:
        folder: The run's folder.
        dataset: The data that its recipe names.

    Returns:
        The model and the step of the checkpoint.

    Raises:
        CheckpointError: If there is no checkpoint that can be read.
        RunFolderError: If the folder holds no run.
    """
    model = build_model(
        folder.read_recipe(),
        input_shape=dataset.input_shape,
        classes=dataset.classes,
    )
    model.optimizer.build(model.trainable_variables)
    saved = checkpoints.Checkpoints(folder.checkpoints, model, {})
    if saved.newest < 0:
        raise CheckpointError(f"{folder.path} has no checkpoint")
    return model, saved.restore()


def run(
    recipe: Recipe,
    dataset: Dataset,
    *,
    folder: RunFolder | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: bool = True,
) -> tuple[keras.Model, Result]:
    """Trains the recipe's model.

    Callbacks are Keras' own: an evaluation period (`recipe.evaluate_every`
    steps) is an epoch to them. One that has an attribute `schedule`, a
    function of the step, is called at exactly the steps for which it is true;
    the others at the end of every stretch.

    SIGINT and SIGTERM end the run after the stretch under way, with a
    checkpoint; a second one ends it at once.

    Args:
        recipe: What to train.
        dataset: The data that `recipe.dataset` names.
        folder: Where checkpoints and results go, opened; `None` keeps
            nothing. If it holds a checkpoint, the run goes on from there.
        callbacks: Keras callbacks; `model.optimizer.iterations` is the step.
        progress: Whether to show a progress bar on standard output.

    Returns:
        The model and the result.

    Raises:
        ValueError: If the batch is larger than the data set.
        TrainingError: If the loss stops being finite.
        CheckpointError: If there is a checkpoint and it cannot be restored.
    """
    strategy = _strategy(recipe)
    keras.utils.set_random_seed(recipe.seed)
    with strategy.scope():
        model = build_model(
            recipe, input_shape=dataset.input_shape, classes=dataset.classes
        )
    steps = make_steps(recipe, dataset, model, strategy)
    if recipe.population_statistics:
        batches = _training_batches(recipe, dataset, 0, (0, 1))
        statistics = PopulationStatistics(
            batches, steps=recipe.population_statistics
        )
        callbacks = [statistics, *callbacks]
    loop = _Loop(recipe, model, steps, strategy, folder, callbacks, progress)
    try:
        return model, loop.run()
    except strategies.PROCESS_LOST as error:
        raise TrainingError(
            "another process of the run is gone. Start all of them again with "
            f"--resume. ({str(error).splitlines()[0]})"
        ) from None


class _Loop:
    """The steps of one run, and what happens between them."""

    def __init__(
        self,
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
        self._progress = progress

    def run(self) -> Result:
        step = self._begin()
        earlier = self._state["seconds"]
        bar = self._progress_bar()
        started = time.monotonic()
        with _stop_on_signals(self._model) as received:
            self._callbacks.on_train_begin()
            stop = False
            while step < self._recipe.steps and not stop:
                step = self._stretch(step)
                self._state["seconds"] = earlier + time.monotonic() - started
                if self._saves_at(step):
                    self._save(step)
                if bar:
                    bar.update(step, list(self._shown().items()))
                stop = self._anywhere(self._model.stop_training)
            self._callbacks.on_train_end()
        result = Result(
            steps=step,
            seconds=self._state["seconds"],
            parameters=_trainable_size(self._model),
            evaluations=self._state["evaluations"],
            interrupted=received[0] if received else 0,
        )
        if self._folder and self._checkpoints:
            self._folder.write_result(result)
            self._checkpoints.save(step)
        return result

    def _begin(self) -> int:
        """Restores what there is; every process begins at the same state."""
        step = 0
        if self._checkpoints:
            step = self._checkpoints.restore()
            self._save(step)
        variables = checkpoints.variables(self._model)
        arrays = [np.asarray(step), *map(np.asarray, variables)]
        first = strategies.from_first(self._strategy, arrays)
        for variable, ours, theirs in zip(
            variables, arrays[1:], first[1:], strict=True
        ):
            if theirs is not ours:
                variable.assign(theirs)
        return int(first[0])

    def _stretch(self, step: int) -> int:
        """Trains until the next step at which something is due."""
        every = self._recipe.evaluate_every
        period, inside = divmod(step, every)
        if inside == 0:
            self._callbacks.on_epoch_begin(period)
        count = self._steps_to_next_stop(step)
        self._callbacks.on_train_batch_begin(inside)
        metrics = self._steps.train(step, count)
        self._check_finite(step, metrics)
        step += count
        logs = self._running_means(metrics)
        self._callbacks.on_train_batch_end(inside + count - 1, logs)
        if self._evaluates_at(step):
            self._callbacks.on_epoch_end(period, self._evaluation(step, logs))
        return step

    def _running_means(self, metrics: Any) -> dict[str, float]:
        """Means since the last evaluation.

        Added up in the order of the steps, so that they do not depend on how
        these were cut into stretches.
        """
        since = self._state["since"]
        for values in metrics.tolist():
            since[0] += 1
            for i, value in enumerate(values, 1):
                since[i] += value
        means = [total / since[0] for total in since[1:]]
        return dict(zip(execution.METRICS, means, strict=True))

    def _check_finite(self, step: int, metrics: Any) -> None:
        """Ends the run at the first loss that is not finite."""
        bad = np.flatnonzero(~np.isfinite(metrics[:, 0]))
        if not bad.size:
            return
        before = step + int(bad[0])
        reasons = [
            f"the loss is {metrics[bad[0], 0]} after {before} steps",
            *self._trace(before),
            "A smaller learning_rate may keep it finite. Received: "
            f"learning_rate={self._recipe.learning_rate}",
        ]
        raise TrainingError(". ".join(reasons))

    def _trace(self, step: int) -> list[str]:
        """Goes back to the last checkpoint and up to the bad step again."""
        if not self._checkpoints:
            return []
        good = self._checkpoints.restore()
        most = self._recipe.steps_per_execution
        for at in range(good, step, most):
            self._steps.train(at, min(most, step - at))
        layer = execution.first_bad_layer(self._model, self._steps.batch(step))
        return [
            f"The first thing that is not finite: {layer}",
            f"The checkpoint of step {good} stays",
        ]

    def _evaluation(
        self, step: int, logs: dict[str, float]
    ) -> dict[str, float]:
        self._callbacks.on_test_begin()
        test_logs = self._steps.evaluate()
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

    def _save(self, step: int) -> None:
        """A disk that is full is no reason to lose the run."""
        if self._checkpoints:
            try:
                self._checkpoints.save(step)
            except CheckpointError as error:
                _LOG.warning("%s; training goes on", error)

    def _shown(self) -> dict[str, float]:
        evaluations = self._state["evaluations"]
        if not evaluations:
            return {}
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        return {name: evaluations[-1][name] for name in names}

    def _progress_bar(self) -> keras.utils.Progbar | None:
        if not self._progress:
            return None
        return keras.utils.Progbar(
            self._recipe.steps,
            interval=0.2 if sys.stdout.isatty() else 5.0,
            stateful_metrics=["loss", "accuracy", "val_loss", "val_accuracy"],
            unit_name="step",
        )


def _strategy(recipe: Recipe) -> Any:
    return strategies.make(recipe.strategy, replicas=recipe.replicas)


def make_steps(
    recipe: Recipe, dataset: Dataset, model: keras.Model, strategy: Any
) -> Any:
    """The steps of a run, as of `keras_bn.backend.execution.Steps`.

    Args:
        recipe: What to train.
        dataset: The data that it names.
        model: Its model, made within the strategy's scope.
        strategy: Where to train.
    """
    if recipe.strategy == "one_device" and isinstance(dataset, ArrayDataset):
        return execution.ResidentSteps(
            model,
            dataset,
            _batch_order(recipe, dataset).rows,
            capacity=min(recipe.steps_per_execution, recipe.steps),
            jit_compile=recipe.jit_compile,
            test_batch=EVALUATION_BATCH,
        )
    return execution.StreamedSteps(
        model,
        lambda step, part: _training_batches(recipe, dataset, step, part),
        lambda part: dataset.test(
            batch_size=max(TEST_BATCH, recipe.batch_size), part=part
        ),
        strategy=strategy,
        jit_compile=recipe.jit_compile,
    )


def _training_batches(
    recipe: Recipe, dataset: Dataset, step: int, part: tuple[int, int]
) -> Any:
    of_images = {"distortion": recipe.distortion, "shuffle": recipe.shuffle}
    return dataset.train(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        start_step=step,
        part=part,
        **({} if isinstance(dataset, ArrayDataset) else of_images),
    )


def _batch_order(recipe: Recipe, dataset: Dataset) -> BatchOrder:
    return BatchOrder(
        examples=dataset.train_examples,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )


def _trainable_size(model: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


@contextlib.contextmanager
def _stop_on_signals(model: keras.Model) -> Iterator[list[int]]:
    """Turns the first SIGINT or SIGTERM into `model.stop_training`."""
    received: list[int] = []
    model.stop_training = False
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    earlier = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        model.stop_training = True
        restore()

    for number in signals:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        restore()


@contextlib.contextmanager
def _dtype_policy(mixed_precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    if mixed_precision != "none":
        keras.config.set_dtype_policy(f"mixed_{mixed_precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
