# SPDX-License-Identifier: Apache-2.0
"""Checks, describes, trains, resumes and restores runs."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_bn import failures, models
from keras_bn.backend import checkpoints, strategies
from keras_bn.data import FLAT, usual_shape
from keras_bn.data.batch_order import require_batch_fits
from keras_bn.errors import reason
from keras_bn.population import PopulationStatistics
from keras_bn.recipes import Recipe
from keras_bn.run_folder import RunFolder
from keras_bn.training.building import build_model, trainable_size
from keras_bn.training.loop import Loop, TrainingError
from keras_bn.training.result import Result
from keras_bn.training.steps import (
    Dataset,
    make_steps,
    training_batches,
)


def check(recipe: Recipe, dataset: Dataset | None = None) -> None:
    """Raises `ValueError` for a recipe that cannot be run on that data set.

    `run` checks this too; this function does so before anything is made.

    Args:
        recipe: What is to be trained.
        dataset: The data that it names; `None` if they are not loaded yet,
            because that may take long.
    """
    images = recipe.dataset not in FLAT
    if dataset is not None:
        require_batch_fits(recipe.batch_size, dataset.train_examples)
        images = len(dataset.input_shape) == 3
    if images != (recipe.model == "inception"):
        raise ValueError(
            "inception trains on cifar10, image_folder or tfrecords, mlp on "
            f"digits or mnist. Received: model={recipe.model}, "
            f"dataset={recipe.dataset}"
        )
    if meaningless := recipe.of_another_model():
        name, value = next(iter(meaningless.items()))
        raise ValueError(
            f"{name} means nothing to model={recipe.model}. Received: "
            f"{name}={value}"
        )
    _check_population_statistics(recipe)
    if recipe.replicas and recipe.strategy != "mirrored":
        raise ValueError(
            "replicas must be 0 unless strategy=mirrored. Received: "
            f"replicas={recipe.replicas}, strategy={recipe.strategy}"
        )
    if recipe.width % 1 and not images:
        raise ValueError(
            "width must be a whole number of units for mlp. "
            f"Received: width={recipe.width}"
        )
    if recipe.per_activation_blocks and recipe.norm in ("keras", "none"):
        raise ValueError(
            "per_activation_blocks need norm=batch. Received: "
            f"norm={recipe.norm}"
        )
    if recipe.norm == "per_activation" and not images:
        raise ValueError(
            "norm=per_activation is for feature maps. "
            f"Received: model={recipe.model}"
        )


def _check_population_statistics(recipe: Recipe) -> None:
    if not recipe.population_statistics:
        return
    if recipe.norm == "none":
        raise ValueError(
            "population_statistics must be 0 without normalization. Received: "
            f"population_statistics={recipe.population_statistics}, norm=none"
        )
    # A place of a map has as many values as a dense feature: one per example.
    places = recipe.norm == "per_activation" or recipe.per_activation_blocks
    dense = recipe.model == "mlp" or recipe.auxiliary_head
    if recipe.batch_size == 1 and (dense or places):
        raise ValueError(
            "population_statistics need batches of several examples. "
            "Received: batch_size=1"
        )


def start(recipe: Recipe) -> tuple[str, bool]:
    """Sets up the devices; must come before any other use of TensorFlow.

    Returns:
        What training runs on, and whether this process keeps the run's files.

    Raises:
        ValueError: If the machine lacks the devices, or `TF_CONFIG` is wrong.
    """
    strategy = strategies.make(recipe.strategy, recipe.replicas)
    return strategies.describe(strategy), strategies.is_chief(strategy)


def describe(recipe: Recipe, dataset: Dataset | None = None) -> str:
    """The resolved recipe, its data and its model, for a person to read.

    Args:
        recipe: What is to be trained.
        dataset: The data that it names; `None` describes the model for as many
            classes as such data usually have.

    Raises:
        ValueError: As `check`.
        TrainingError: If the model does not fit into memory.
    """
    check(recipe, dataset)
    if dataset is None:
        shape, classes = usual_shape(
            recipe.dataset, image_size=recipe.image_size
        )
        about = [
            "examples                 unknown: no data were read",
            f"classes             {classes:>12,} (assumed)",
        ]
    else:
        shape, classes = dataset.input_shape, dataset.classes
        about = [
            f"training examples   {dataset.train_examples:>12,}",
            f"test examples       {dataset.test_examples:>12,}",
            f"classes             {classes:>12,}",
        ]
    with _enough_memory(recipe):
        model = build_model(recipe, input_shape=shape, classes=classes)
    lines = [
        recipe.to_json(),
        *about,
        f"trainable weights   {trainable_size(model):>12,}",
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
        raise checkpoints.CheckpointError(f"{folder.path} has no checkpoint")
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
    steps) is an epoch to them. They are called at the end of every stretch of
    steps. If one has an attribute `schedule`, a function of the step, a stretch
    also ends at every step for which that is true.

    SIGINT, SIGTERM and SIGHUP end the run after the current stretch (in one
    process with streamed data, the current step), with a checkpoint; a second
    signal, except a repeated SIGHUP, ends it at once.

    Args:
        recipe: What to train.
        dataset: The data that `recipe.dataset` names.
        folder: Opened folder for checkpoints and results; `None` keeps
            nothing. If it holds a checkpoint, the run continues from there.
        callbacks: Keras callbacks; `params["step"]` is the step that the run
            starts from.
        progress: Whether to show a progress bar on standard output.

    Returns:
        The model and the result.

    Raises:
        ValueError: If the recipe cannot be run on that data set, or the
            machine lacks the devices.
        TrainingError: If the loss stops being finite, or memory is not
            enough.
        CheckpointError: If there is a checkpoint and it cannot be restored.
        RunFolderError: If the run in the folder has trained on other data.
    """
    check(recipe, dataset)
    strategy = strategies.make(recipe.strategy, recipe.replicas)
    keras.utils.set_random_seed(recipe.seed)
    if folder:
        folder.take_data(dataset.identity())
    try:
        with _enough_memory(recipe):
            with strategy.scope():
                model = build_model(
                    recipe,
                    input_shape=dataset.input_shape,
                    classes=dataset.classes,
                )
            steps = make_steps(recipe, dataset, model, strategy)
            if recipe.population_statistics:
                batches = training_batches(recipe, dataset, 0, (0, 1))
                statistics = _Statistics(
                    batches, steps=recipe.population_statistics
                )
                callbacks = [statistics, *callbacks]
            loop = Loop(
                recipe=recipe,
                model=model,
                steps=steps,
                strategy=strategy,
                folder=folder,
                callbacks=callbacks,
                progress=progress,
            )
            return model, loop.run()
    except failures.PROCESS_LOST as error:
        raise TrainingError(
            "another process of the run is gone. Start all of them again with "
            f"--resume. ({reason(error)})"
        ) from None


@contextlib.contextmanager
def _enough_memory(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except failures.OUT_OF_MEMORY:
        raise TrainingError(
            "model and batch must fit into the memory of the device. "
            f"Received: width={recipe.width:g}, depth={recipe.depth}, "
            f"image_size={recipe.image_size}, batch_size={recipe.batch_size}"
        ) from None


class _Statistics(PopulationStatistics):
    """Statistics of a run, which may diverge."""

    def on_test_begin(self, logs: Any = None) -> None:
        try:
            with failures.reading(operation="IteratorGetNext"):
                super().on_test_begin(logs)
        except ValueError as error:
            rate = keras.ops.convert_to_numpy(
                self.model.optimizer.learning_rate
            )
            raise TrainingError(
                "population statistics cannot be estimated after "
                f"{int(self.model.optimizer.iterations)} steps: {error}. A "
                "smaller learning_rate may keep them finite. Received: "
                f"learning_rate={float(rate):g}"
            ) from error
