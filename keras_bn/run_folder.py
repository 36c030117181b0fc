# SPDX-License-Identifier: Apache-2.0
"""The folder of one run: what lies where, and who may write into it.

<logdir>/<run_name>/
    recipe.json     resolved recipe, versions, device, when it started
    train/ validation/ analysis/    event files
    checkpoints/    the newest states of the run
    result.json     final and best figures, steps, seconds
"""

import dataclasses
import datetime
import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_bn._version import __version__
from keras_bn.recipes import Recipe


class RunFolderError(Exception):
    """A run folder that cannot be opened as asked."""


class RunFolder:
    """An opened run folder; make one with `open_run_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def events(self, part: str) -> Path:
        """Folder of event files: `train`, `validation` or `analysis`."""
        return self.path / part

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe and the environment, as JSON."""
        return self.path / "recipe.json"

    def write_recipe(self, recipe: Recipe, *, device: str) -> None:
        """Writes `recipe.json`."""
        write_json(
            self.recipe_file,
            {
                "recipe": dataclasses.asdict(recipe),
                "environment": {
                    "device": device,
                    "cpu_count": os.cpu_count(),
                    "platform": platform.platform(),
                    "python": platform.python_version(),
                    "versions": {
                        "keras_bn": __version__,
                        **{
                            name: metadata.version(name)
                            for name in ("tensorflow", "keras", "numpy")
                        },
                    },
                },
                "started": datetime.datetime.now(datetime.UTC).isoformat(
                    timespec="seconds"
                ),
            },
        )

    def read_recipe(self) -> Recipe:
        """The recipe in `recipe.json`.

        Raises:
            RunFolderError: If the file is missing, damaged or not a recipe.
        """
        try:
            contents = json.loads(self.recipe_file.read_text("utf-8"))
            return Recipe.from_mapping(contents["recipe"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{self.recipe_file} holds no recipe: {error}"
            ) from None

    def write_result(self, result: Any) -> None:
        """Writes `result.json` from a `keras_bn.training.Result`."""
        write_json(
            self.path / "result.json",
            {
                "steps": result.steps,
                "seconds": round(result.seconds, 3),
                "parameters": result.parameters,
                "final": result.final,
                "best": result.best,
                "evaluations": result.evaluations,
            },
        )


def open_run_folder(
    path: str | Path,
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "unknown",
) -> RunFolder:
    """Makes or takes up the folder of a run; never mixes two runs.

    Args:
        path: The folder.
        recipe: The recipe about to run.
        resume: Go on with the run that lies there (or start, if none does).
            Its recipe must be the same but for `steps`.
        overwrite: Delete the run that lies there.
        device: What the run trains on, for the record.

    Raises:
        RunFolderError: If a run is there and neither option is given, the
            recipes differ, or the folder cannot be written.
        ValueError: If both options are given.
    """
    if resume and overwrite:
        raise ValueError(
            "at most one of resume and overwrite may be given. Received: both"
        )
    folder = RunFolder(Path(path))
    try:
        if overwrite:
            _delete_run(folder)
        if folder.path.exists() and any(folder.path.iterdir()):
            if not resume:
                raise RunFolderError(
                    f"{folder.path} exists. Go on with --resume, start again "
                    "with --overwrite, or choose another --run_name"
                )
            _check_same(folder.read_recipe(), recipe, folder.path)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_recipe(recipe, device=device)
    except OSError as error:
        raise RunFolderError(
            f"the run folder {folder.path} cannot be written: "
            f"{error.strerror or error}"
        ) from None
    return folder


def _delete_run(folder: RunFolder) -> None:
    if not folder.path.exists():
        return
    if any(folder.path.iterdir()) and not folder.recipe_file.exists():
        raise RunFolderError(
            f"{folder.path} is not a run (it has no recipe.json), so it is "
            "not overwritten. Choose another --run_name"
        )
    shutil.rmtree(folder.path)


def _check_same(there: Recipe, asked: Recipe, path: Path) -> None:
    fields = [f.name for f in dataclasses.fields(Recipe) if f.name != "steps"]
    different = [
        f"{name}={getattr(there, name)} there, {getattr(asked, name)} asked"
        for name in fields
        if getattr(there, name) != getattr(asked, name)
    ]
    if different:
        raise RunFolderError(
            f"the run in {path} has another recipe: {'; '.join(different)}"
        )


def write_json(path: Path, contents: Any) -> None:
    """Writes JSON to a temporary name and renames it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(contents, indent=2) + "\n", "utf-8")
    temporary.replace(path)
