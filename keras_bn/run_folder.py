# SPDX-License-Identifier: Apache-2.0
"""The folder of one run: its layout, and who may write into it.

<logdir>/<run_name>/
    lock            held by the process that writes
    recipe.json     resolved recipe, data; of each start, the first and
                    those that resumed the run, time, commit and device
    events.out.tfevents.*    event files of the run as a whole
    train/ validation/ analysis/    those of its parts
    checkpoints/    the newest states of the run
    result.json     final and best figures, steps, seconds
    figures/        images of a report on this run alone
    replaced/       the run that this one replaces, until this one has begun
"""

import contextlib
import dataclasses
import datetime
import fcntl
import fnmatch
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_bn.environment import environment
from keras_bn.errors import ExpectedError, some
from keras_bn.recipes import Recipe
from keras_bn.writing import TEMPORARY, write_json

#: File that is locked while a process writes into the folder.
LOCK = "lock"
_RECIPE = "recipe.json"
_STARTS = "starts"
_RESULT = "result.json"
#: Folders of a replaced run: complete, being moved in or out, being deleted.
_REPLACED = "replaced"
_MOVING = "replaced.tmp"
_DELETED = "replaced.deleted"
#: Folders within a run's that hold another run, for a while.
PUT_ASIDE = (_REPLACED, _MOVING, _DELETED)
#: Patterns of all files of a run; nothing else is ever deleted.
_EVENTS = "events.out.tfevents.*.keras_bn"
_OF_A_RUN = (
    *(_RECIPE, TEMPORARY + _RECIPE, _RESULT, TEMPORARY + _RESULT),
    "checkpoints/ckpt-*",
    *(
        folder + name
        for folder in ("", "train/", "validation/", "analysis/", "figures/")
        for name in (_EVENTS, TEMPORARY + _EVENTS)
    ),
)
#: The first parts of these patterns.
_AT_THE_TOP = {pattern.partition("/")[0] for pattern in _OF_A_RUN}


class RunFolderError(ExpectedError):
    """A run folder that cannot be opened as asked."""


class RunFolder:
    """An opened run folder; make one with `open_run_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: dict[str, Any] = {}

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe and the environment, as JSON."""
        return self.path / _RECIPE

    def take_data(self, data: dict[str, Any]) -> None:
        """Records the data that the run is about to train on.

        Args:
            data: Facts, as returned by a data set's `identity`.

        Raises:
            RunFolderError: If the run in the folder has trained on other data.
        """
        there = self.read_data()
        different = [
            f"{name}={there[name]} there, {data.get(name)} given"
            for name in there
            if there[name] != data.get(name)
        ]
        if different:
            raise RunFolderError(
                f"the run in {self.path} has trained on other data: "
                f"{'; '.join(different)}"
            )
        self._data = data

    def read_data(self) -> dict[str, Any]:
        """What `recipe.json` says of the data; empty if nothing."""
        data = _read_json(self.recipe_file).get("data")
        return data if isinstance(data, dict) else {}

    def write_recipe(self, recipe: Recipe, *, device: str) -> None:
        """Writes `recipe.json`, with the earlier starts of a resumed run."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        earlier = _read_json(self.recipe_file).get(_STARTS)
        write_json(
            self.recipe_file,
            {
                "recipe": dataclasses.asdict(recipe),
                "data": self._data,
                _STARTS: [
                    *(earlier if isinstance(earlier, list) else []),
                    {"time": now, "environment": environment(device=device)},
                ],
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
            self.path / _RESULT,
            {
                "steps": result.steps,
                "seconds": round(result.seconds, 3),
                "parameters": result.parameters,
                "final": result.final,
                "best": result.best,
                "evaluations": result.evaluations,
            },
        )

    def read_result(self) -> dict[str, Any]:
        """What `result.json` says; empty if it is missing or damaged."""
        return _read_json(self.path / _RESULT)

    def has_begun(self) -> bool:
        """Whether training has left something in the folder."""
        parts = ("train", "validation", "analysis")
        return (self.path / _RESULT).exists() or any(
            any((self.path / part).glob(_EVENTS)) for part in parts
        )

    def delete_replaced(self) -> None:
        """Deletes the run that this one replaces, if there is one.

        To be called once this run has begun: until then, the replaced run
        comes back whatever happens.
        """
        if _is_recipe(self.path / _REPLACED / _RECIPE):
            # Renamed first, so that what a kill leaves is never brought back.
            shutil.rmtree((self.path / _REPLACED).rename(self.path / _DELETED))


def _read_json(path: Path) -> dict[str, Any]:
    """What a file says; empty if it is missing or damaged."""
    try:
        contents = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return contents if isinstance(contents, dict) else {}


@contextlib.contextmanager
def open_run_folder(
    path: str | Path,
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[RunFolder]:
    """Creates or reopens the folder of a run; never mixes two runs.

    Within the context, no other process may open it.

    Args:
        path: The folder.
        recipe: The recipe about to run.
        resume: Continue the run in the folder, or start one if there is none.
            The two recipes must not conflict.
        overwrite: Replace the run in the folder. That run is put aside, and
            comes back unless `delete_replaced` is called.

    Raises:
        RunFolderError: If a run is there and neither option is given, the
            recipes conflict, another process is training there, files that
            do not belong to a run would be deleted, or the folder cannot be
            written.
        ValueError: If both options are given.
    """
    if resume and overwrite:
        raise ValueError(
            "at most one of resume and overwrite may be given. Received: both"
        )
    folder = RunFolder(Path(path))
    with contextlib.ExitStack() as stack:
        with _refused(folder):
            _check_is_run(folder)
            stack.enter_context(_locked(folder))
            stack.callback(_bring_back, folder.path)
            _bring_back(folder.path)
            if overwrite:
                _put_aside(folder.path)
            else:
                _check_goes_on(folder, recipe, resume=resume)
        yield folder


def check_run_folder(
    path: str | Path,
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Raises what `open_run_folder` would raise for the folder as it is.

    To be called before work that an error would waste. It creates nothing, and
    does not check whether another process is training there.
    """
    folder = RunFolder(Path(path))
    with _refused(folder):
        _check_is_run(folder)
        if any((folder.path / name).exists() for name in PUT_ASIDE):
            return  # The run put aside is brought back first.
        if not overwrite:
            _check_goes_on(folder, recipe, resume=resume)
        elif folder.path.exists():
            _check_nothing_else(folder.path)


@contextlib.contextmanager
def _refused(folder: RunFolder) -> Iterator[None]:
    """Turns an `OSError` into a `RunFolderError`."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"the run folder {folder.path} cannot be written: "
            f"{error.strerror or error}"
        ) from None


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


def _check_is_run(folder: RunFolder) -> None:
    """Refuses a folder with other contents before anything is written."""
    places = ("", _REPLACED, _MOVING)
    if any(_is_recipe(folder.path / place / _RECIPE) for place in places):
        return
    if folder.path.exists() and _contents(folder.path):
        raise RunFolderError(
            f"{folder.path} holds something that is not a run (it has no "
            "recipe.json of this package, or a damaged one), so it is left "
            "alone. Choose another --run_name"
        )


def _is_recipe(path: Path) -> bool:
    """Whether the file is ours, be it of another version."""
    contents = _read_json(path)
    about = {_STARTS, "environment"} & set(contents)
    return "recipe" in contents and bool(about)


def _contents(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != LOCK]


def _foreign(folder: Path) -> list[str]:
    """Files and empty folders in a run's folder that are not part of a run."""
    found = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink() or not any(path.iterdir())
    ]
    own = (LOCK, *_OF_A_RUN, *_AT_THE_TOP)
    return [
        name
        for name in sorted(found)
        if not any(fnmatch.fnmatch(name, pattern) for pattern in own)
    ]


def _put_aside(folder: Path) -> None:
    """Moves the run in a folder to `_REPLACED`, whole or not at all."""
    _check_nothing_else(folder)
    if _contents(folder):
        _move_run(folder, folder / _MOVING)
        (folder / _MOVING).rename(folder / _REPLACED)


def _check_nothing_else(folder: Path) -> None:
    """Refuses to replace a run whose folder also holds other files."""
    others = _foreign(folder)
    if others:
        raise RunFolderError(
            f"{folder} also holds {some(others)}, not of the run, so nothing "
            "is deleted. Move that, or choose another --run_name"
        )


def _bring_back(folder: Path) -> None:
    """Undoes `_put_aside`, even if a kill cut off that or an earlier undo."""
    _delete_if_there(folder / _DELETED)
    if _is_recipe(folder / _REPLACED / _RECIPE):
        _move_run(folder, folder / _DELETED)
        (folder / _REPLACED).rename(folder / _MOVING)
    if (folder / _MOVING).exists():
        _move_run(folder / _MOVING, folder)
        (folder / _MOVING).rmdir()
    _delete_if_there(folder / _DELETED)


def _delete_if_there(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _move_run(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in _contents(source):
        if any(fnmatch.fnmatch(path.name, name) for name in _AT_THE_TOP):
            path.rename(target / path.name)


def _check_goes_on(folder: RunFolder, asked: Recipe, *, resume: bool) -> None:
    if not folder.path.exists() or not _contents(folder.path):
        return
    if not resume:
        raise RunFolderError(
            f"{folder.path} exists. Go on with --resume, start again with "
            "--overwrite, or choose another --run_name"
        )
    there = folder.read_recipe()
    different = [
        f"{name}={getattr(there, name)} there, {getattr(asked, name)} asked"
        for name in there.conflicts(asked)
    ]
    if different:
        raise RunFolderError(
            f"the run in {folder.path} has another recipe: "
            f"{'; '.join(different)}"
        )
