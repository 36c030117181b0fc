# SPDX-License-Identifier: Apache-2.0
"""The folder of one run: what lies where, and who may write into it.

<logdir>/<run_name>/
    lock            held by the process that writes
    recipe.json     resolved recipe, versions, device, when it started
    train/ validation/ analysis/    event files
    checkpoints/    the newest states of the run
    result.json     final and best figures, steps, seconds
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_bn._version import __version__
from keras_bn.errors import ExpectedError
from keras_bn.recipes import Recipe

#: File that is locked while a process writes into the folder.
LOCK = "lock"


class RunFolderError(ExpectedError):
    """A run folder that cannot be opened as asked."""


#: Fields that a run may change where it goes on: they decide how long, where
#: and in what portions it is computed, not what.
FREE_TO_CHANGE = (
    "steps",
    "strategy",
    "replicas",
    "steps_per_execution",
    "checkpoint_every",
)


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
                "environment": environment(device=device),
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
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
        ) as error:
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


@contextlib.contextmanager
def open_run_folder(
    path: str | Path,
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "unknown",
) -> Iterator[RunFolder]:
    """Makes or takes up the folder of a run; never mixes two runs.

    Within the context, no other process may open it.

    Args:
        path: The folder.
        recipe: The recipe about to run.
        resume: Go on with the run that lies there (or start, if none does).
            Its recipe must be the same but for `FREE_TO_CHANGE`.
        overwrite: Delete the run that lies there.
        device: What the run trains on, for the record.

    Raises:
        RunFolderError: If a run is there and neither option is given, the
            recipes differ, another process is training in it, or the folder
            cannot be written.
        ValueError: If both options are given.
    """
    if resume and overwrite:
        raise ValueError(
            "at most one of resume and overwrite may be given. Received: both"
        )
    folder = RunFolder(Path(path))
    _check_is_run(folder)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(folder))
            if overwrite:
                _delete_run(folder)
            _check_goes_on(folder, recipe, resume=resume)
            folder.write_recipe(recipe, device=device)
        except OSError as error:
            raise RunFolderError(
                f"the run folder {folder.path} cannot be written: "
                f"{error.strerror or error}"
            ) from None
        yield folder


@contextlib.contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Makes the folder and keeps other processes out."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / LOCK).open("ab") as file:
        try:
            # The system lets go of it however the process ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                f"another process is training in {folder.path}. Wait for it, "
                "or choose another --run_name"
            ) from None
        yield


def _contents(folder: RunFolder) -> list[Path]:
    return [path for path in folder.path.iterdir() if path.name != LOCK]


def _check_is_run(folder: RunFolder) -> None:
    there = folder.path.exists() and _contents(folder)
    if there and not folder.recipe_file.exists():
        raise RunFolderError(
            f"{folder.path} holds something that is not a run (it has no "
            "recipe.json), so it is left alone. Choose another --run_name"
        )


def _delete_run(folder: RunFolder) -> None:
    # The recipe goes last: a deletion that is cut off can be repeated.
    for path in sorted(_contents(folder), key=folder.recipe_file.__eq__):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_goes_on(folder: RunFolder, asked: Recipe, *, resume: bool) -> None:
    if not _contents(folder):
        return
    if not resume:
        raise RunFolderError(
            f"{folder.path} exists. Go on with --resume, start again with "
            "--overwrite, or choose another --run_name"
        )
    there = folder.read_recipe()
    fields = [field.name for field in dataclasses.fields(Recipe)]
    different = [
        f"{name}={getattr(there, name)} there, {getattr(asked, name)} asked"
        for name in fields
        if name not in FREE_TO_CHANGE
        and getattr(there, name) != getattr(asked, name)
    ]
    if different:
        raise RunFolderError(
            f"the run in {folder.path} has another recipe: "
            f"{'; '.join(different)}"
        )


def environment(*, device: str) -> dict[str, Any]:
    """What figures depend on: device, platform, versions."""
    names = ("tensorflow", "keras", "numpy")
    return {
        "device": device,
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            "keras_bn": __version__,
            **{name: metadata.version(name) for name in names},
        },
    }


def write_json(path: Path, contents: Any) -> None:
    """Writes JSON to a temporary name and renames it; `null` for NaN."""
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(_finite(contents), indent=2, allow_nan=False)
    temporary.write_text(text + "\n", "utf-8")
    temporary.replace(path)


def _finite(contents: Any) -> Any:
    """With `None` for numbers that JSON does not have."""
    if isinstance(contents, dict):
        return {key: _finite(value) for key, value in contents.items()}
    if isinstance(contents, list | tuple):
        return [_finite(value) for value in contents]
    if isinstance(contents, float) and not math.isfinite(contents):
        return None
    return contents
