# SPDX-License-Identifier: Apache-2.0
"""Runs that several claims share: each is trained once and then reused."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import keras

from analysis import callbacks, readers
from analysis.table import Table
from keras_bn import data, run_folder, training
from keras_bn.recipes import RECIPES, Recipe


class Runs:
    """A log folder in which every recipe has a run of its own.

    Complete runs are not trained again; interrupted ones are resumed.

    Args:
        logdir: The folder.
        data_dir: The folder of MNIST, as for `train.py`.
        say: Called with each line about progress.
    """

    def __init__(
        self,
        logdir: str | Path,
        *,
        data_dir: str | None = None,
        say: Callable[[str], None],
    ) -> None:
        self._logdir = Path(logdir)
        self._say = say
        self.dataset = functools.cache(
            functools.partial(data.load, data_dir=data_dir)
        )

    def table(self, recipes: Iterable[Recipe]) -> Table:
        """All that the runs of these recipes recorded; trains what is missing.

        Raises:
            RunFolderError: If a folder holds another run of that name.
            DataError: If the data are missing or damaged.
            TrainingError: If a loss stops being finite.
            KeyboardInterrupt: If a signal ended a run.
        """
        names = [self._train(recipe) for recipe in recipes]
        read = [readers.read(self._logdir / name) for name in names]
        return Table(
            [run for table in read for run in table.runs.values()],
            [row for table in read for row in table.rows()],
        )

    def model(self, recipe: Recipe) -> keras.Model:
        """The trained network of a recipe; raises what `table` raises."""
        folder = run_folder.RunFolder(self._logdir / self._train(recipe))
        model, step = training.restore(folder, self.dataset(recipe.dataset))
        if step != recipe.steps:
            raise run_folder.RunFolderError(
                f"{folder.path} has no checkpoint of its last step. Delete it, "
                "to train it anew"
            )
        return model

    def untrained(self, recipe: Recipe) -> keras.Model:
        """The network of a recipe at its first step."""
        dataset = self.dataset(recipe.dataset)
        return training.build_model(
            recipe, input_shape=dataset.input_shape, classes=dataset.classes
        )

    def _train(self, recipe: Recipe) -> str:
        """Trains the run unless it is complete; returns its name."""
        name = run_name(recipe)
        path = self._logdir / name
        if not _is_complete(run_folder.RunFolder(path), recipe):
            self._say(f"training {name}, {recipe.steps:,} steps")
            with run_folder.open_run_folder(
                path, recipe, resume=True
            ) as folder:
                self._run(recipe, folder)
        return name

    def _run(self, recipe: Recipe, folder: run_folder.RunFolder) -> None:
        dataset = self.dataset(recipe.dataset)
        _, result = training.run(
            recipe,
            dataset,
            folder=folder,
            callbacks=callbacks.for_run(folder.path, recipe, dataset),
            progress=False,
        )
        if result.interrupted:
            raise KeyboardInterrupt


def _is_complete(folder: run_folder.RunFolder, recipe: Recipe) -> bool:
    """Whether the folder holds a completed run of exactly this recipe."""
    try:
        there = folder.read_recipe()
    except run_folder.RunFolderError:
        return False
    steps = folder.read_result().get("steps")
    return there == recipe and steps == recipe.steps


def run_name(recipe: Recipe) -> str:
    """The recipe's name, data set and seed, then the fields that were changed.

    For example: `fig1_bn-mnist-0-learning_rate=0.5`
    """
    own = RECIPES[recipe.recipe].hyperparameters()
    named = ("dataset", "seed")
    changes = [
        f"{field}={value:g}" if isinstance(value, float) else f"{field}={value}"
        for field, value in recipe.hyperparameters().items()
        if field not in named and value != own[field]
    ]
    parts = [recipe.recipe, recipe.dataset, str(recipe.seed), *changes]
    return "-".join(parts)
