# SPDX-License-Identifier: Apache-2.0
"""Trains one experiment of the paper: flags -> recipe -> run.

    python train.py                            the paper's MLP with BN on digits
    python train.py --recipe=fig1_baseline     the same without BN
    python train.py --dataset=mnist --data_dir=DIR
    python train.py --dry_run                  only say what would be trained

A flag whose help ends in [recipe's own] overrides that field of the recipe.
"""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if __name__ == "__main__":

    def interrupted(*_: object) -> None:
        """Exits at once: a half-loaded TensorFlow swallows exceptions."""
        os.write(2, b"train.py: interrupted\n")
        os._exit(130)

    when_loaded = signal.signal(signal.SIGINT, interrupted)

from absl import flags

from analysis import callbacks
from keras_bn import data, recipes, run_folder, training
from keras_bn.command_line import Command

FLAGS = flags.FLAGS
_RECIPE_FLAGS: list[str] = []

flags.DEFINE_string("recipe", "fig1_bn", f"one of {', '.join(recipes.RECIPES)}")
flags.DEFINE_string(
    "data_dir", None, "folder of the data set's files, or the file"
)
flags.DEFINE_string("logdir", "runs", "folder that holds a folder for each run")
flags.DEFINE_string(
    "run_name", None, "default: recipe, data set and seed, joined by hyphens"
)
flags.DEFINE_bool(
    "resume", False, "go on with the run of that name, or begin it"
)
flags.DEFINE_bool("overwrite", False, "replace the run of that name")
flags.DEFINE_bool("dry_run", False, "print recipe and size, touch nothing")


def define_recipe_flags() -> None:
    """Defines a flag per field of a recipe, from the field's own metadata."""
    defaults = recipes.Recipe()
    for field in dataclasses.fields(recipes.Recipe):
        if field.name == "recipe":
            continue
        default = getattr(defaults, field.name)
        define = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            tuple: flags.DEFINE_list,
            str: flags.DEFINE_string,
        }[type(default)]
        help_text = field.metadata["help"]
        choices = field.metadata["rule"].get("choices")
        if choices:
            help_text += f" ({' | '.join(choices)})"
        define(field.name, None, f"{help_text} [recipe's own]")
        _RECIPE_FLAGS.append(field.name)


def resolve_recipe() -> recipes.Recipe:
    """The recipe that the flags ask for; `ValueError` names a bad one."""
    given = {name: FLAGS[name].value for name in _RECIPE_FLAGS}
    changes: dict[str, Any] = {
        name: tuple(v for v in value if v) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
    return recipes.get(FLAGS.recipe).replace(**changes)


def main() -> int:
    """Trains what the flags ask for; returns the exit code."""
    if FLAGS.resume and FLAGS.overwrite:
        raise ValueError("give one of --resume and --overwrite, not both")
    result = run(resolve_recipe())
    if result is None:
        return 0
    if result.interrupted:
        print(
            f"Stopped by {signal.Signals(result.interrupted).name} after "
            f"{result.steps} steps; --resume goes on from there."
        )
        return 128 + result.interrupted
    print(training.summary(result))
    return 0


def run_path(recipe: recipes.Recipe) -> Path:
    """The run's folder; `ValueError` for a name that cannot be one."""
    name = FLAGS.run_name or f"{recipe.recipe}-{recipe.dataset}-{recipe.seed}"
    parts = Path(name).parts
    below = parts and ".." not in parts and not Path(name).is_absolute()
    if not below or not name.isprintable():
        raise ValueError(
            "run_name must be a folder below logdir, in printable characters. "
            f"Received: run_name={name!r}"
        )
    if parts[:1] in (("figures",), ("claims",)):
        raise ValueError(
            f"{parts[0]} is where reports keep theirs. Received: "
            f"run_name={name}"
        )
    path = Path(FLAGS.logdir) / name
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            "logdir must be in UTF-8, as TensorFlow takes no other paths. "
            f"Received: {str(path)!a}"
        ) from None
    return path


def run(recipe: recipes.Recipe) -> training.Result | None:
    """Trains in the run's folder; the result, `None` for a dry run."""
    path = run_path(recipe)
    bundled = recipe.dataset == "digits"
    if FLAGS.data_dir is not None and bundled:
        raise ValueError(
            "data_dir is for data sets in files, digits is bundled. Received: "
            f"data_dir={FLAGS.data_dir}"
        )
    # Check what can be checked before loading data, which may take long.
    training.check(recipe)
    _, chief = training.start(recipe)
    options = {"resume": FLAGS.resume, "overwrite": FLAGS.overwrite}
    if FLAGS.dry_run and not (bundled or FLAGS.data_dir):
        print(training.describe(recipe))
        return None
    if chief and not FLAGS.dry_run:
        run_folder.check_run_folder(path, recipe, **options)
    dataset = data.load(
        recipe.dataset,
        data_dir=FLAGS.data_dir,
        image_size=recipe.image_size,
    )
    if FLAGS.dry_run:
        print(training.describe(recipe, dataset))
        return None
    training.check(recipe, dataset)
    if not chief:
        return training.run(recipe, dataset, progress=False)[1]
    with run_folder.open_run_folder(path, recipe, **options) as folder:
        print(f"{recipe.recipe} on {recipe.dataset}, into {path}")
        _, result = training.run(
            recipe,
            dataset,
            folder=folder,
            callbacks=callbacks.for_run(path, recipe, dataset),
        )
        return result


define_recipe_flags()
COMMAND = Command("train.py", main)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, when_loaded)
    COMMAND.run()
