# SPDX-License-Identifier: Apache-2.0
"""Event files and run folders -> a tidy table."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis import event_file
from analysis.table import Row, Run, Table
from analysis.text import printable

_LOG = logging.getLogger(__name__)
_PNG = b"\x89PNG\r\n\x1a\n"
#: Folder whose runs are those of the claims.
OF_CLAIMS = "claims"
PARTS = ("train", "validation", "analysis")
#: Folders inside a run's folder that hold another run for a while. Repeated
#: from `keras_bn.run_folder`, because importing that loads TensorFlow.
PUT_ASIDE = ("replaced", "replaced.tmp", "replaced.deleted")


class ReadError(OSError):
    """A log folder that holds no runs, or a damaged file."""


def read(logdir: str | Path) -> Table:
    """Reads every run below a folder: all scalars, complete.

    A run is a folder with a `recipe.json`; those below `claims` were trained
    to measure the claims and are left out, see `claim_runs`. Files cut off
    at the end, such as those of a run in progress, are read up to there. So
    are damaged ones, which the log and the table report.

    Args:
        logdir: The folder, or that of one run.

    Returns:
        All runs and their rows.

    Raises:
        ReadError: If the folder is missing or holds no runs.
    """
    root = Path(logdir)
    if not root.is_dir():
        raise ReadError(f"{root} is not a folder")
    warnings: list[str] = []
    folders = sorted({*_runs_below(root, warnings)} - {*claim_runs(root)})
    if not folders:
        raise ReadError(
            f"{root} holds no runs (folders with a recipe.json, outside of "
            f"{root / OF_CLAIMS})"
        )
    runs = [_read_run(folder, root) for folder in folders]
    rows = [
        row
        for folder, run in zip(folders, runs, strict=True)
        for row in _read_rows(folder, run.name, warnings)
    ]
    warnings = list(map(printable, warnings))
    for warning in warnings:
        _LOG.warning(warning)
    return Table(runs, rows, warnings)


def _runs_below(root: Path, warnings: list[str]) -> Iterator[Path]:
    """Folders with a `recipe.json`."""

    def refused(error: OSError) -> None:
        warnings.append(f"{error.filename} cannot be listed: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=refused):
        if "lock" in files:  # A run, perhaps one that is being replaced.
            folders[:] = [name for name in folders if name not in PUT_ASIDE]
        if "recipe.json" in files:
            yield Path(folder)


def claim_runs(logdir: str | Path) -> list[Path]:
    """Folders of the runs that were trained for the claims.

    Args:
        logdir: The folder that holds their folder, `claims`.
    """
    below = (Path(logdir) / OF_CLAIMS).rglob("*/recipe.json")
    return [path.parent for path in below]


def read_claims(logdir: str | Path) -> list[dict[str, Any]]:
    """The rows that `python -m analysis.claims` wrote into a log folder.

    Args:
        logdir: The folder, which may hold a `claims.json`.

    Returns:
        A row per claim with `number`, `claim`, `section`, `expected`,
        `measured` and `holds`; none without such a file.

    Raises:
        ReadError: If the file is damaged.
    """
    path = Path(logdir) / "claims.json"
    rows = _read_json(path, {"results": list}).get("results", [])
    needed = ("number", "claim", "section", "expected", "measured", "holds")
    for row in rows:
        if not isinstance(row, dict):
            raise ReadError(f"{path} is damaged: {row!r:.40} is no claim")
        absent = [name for name in needed if name not in row]
        if absent:
            raise ReadError(f"{path} is damaged: a claim has no {absent[0]}")
        if not isinstance(row["measured"], dict):
            raise ReadError(f"{path} is damaged: a claim measured no figures")
        for name, value in row["measured"].items():
            if not isinstance(value, int | float | None):
                raise ReadError(
                    f"{path} is damaged: {name!r:.40} is no figure but "
                    f"{value!r:.40}"
                )
    return list(rows)


def read_evaluations(logdir: str | Path) -> list[dict[str, Any]]:
    """The rows that `python -m analysis.evaluate` wrote into a log folder.

    Args:
        logdir: The folder, which may hold `evaluation.json` and files
            `evaluation-*.json`.

    Returns:
        A row per network or ensemble and number of crops, in the order of the
        files' names, with `name`, `model`, `step`, `crops`, `top_1` and
        `top_5`.

    Raises:
        ReadError: If a file is damaged.
    """
    rows: list[dict[str, Any]] = []
    folder = Path(logdir)
    for path in [
        folder / "evaluation.json",
        *sorted(folder.glob("evaluation-*.json")),
    ]:
        for row in _read_json(path, {"results": list}).get("results", []):
            if not isinstance(row, dict):
                raise ReadError(f"{path} is damaged: {row!r:.40} is no row")
            for name, fits in _OF_AN_EVALUATION.items():
                if name not in row or not fits(row[name]):
                    raise ReadError(
                        f"{path} is damaged: {name} of a row is "
                        f"{row.get(name)!r:.40}"
                    )
            rows.append({**row, "name": printable(row["name"])})
    return rows


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


#: The fields of a row of an evaluation, and whether a value can be theirs.
_OF_AN_EVALUATION: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "model": lambda value: isinstance(value, str),
    "step": lambda value: value is None or _is_count(value),
    "crops": _is_count,
    "top_1": _is_share,
    "top_5": _is_share,
}


def read_claim_pictures(logdir: str | Path) -> dict[str, bytes]:
    """The pictures that were drawn for claims: `claim-*.png`.

    Returns:
        Contents by name without ending, sorted.

    Raises:
        ReadError: If one is not a PNG picture.
    """
    found = {}
    for path in sorted(Path(logdir).glob("claim-*.png")):
        found[path.stem] = path.read_bytes()
        if not found[path.stem].startswith(_PNG):
            raise ReadError(f"{path} is damaged: it is no PNG picture")
    return found


def _read_run(folder: Path, root: Path) -> Run:
    contents = _read_json(
        folder / "recipe.json", {"recipe": dict, "starts": list}
    )
    name = folder.relative_to(root).as_posix()
    name = folder.name if name == "." else name
    starts = contents.get("starts", [])
    if not all(map(_is_start, starts)):
        raise ReadError(
            f"{folder / 'recipe.json'} is damaged: its field starts is "
            f"{starts!r:.40}"
        )
    return Run(
        name=printable(name),
        recipe=contents.get("recipe", {}),
        environments=[start["environment"] for start in starts],
        result=_read_json(
            folder / "result.json", {"seconds": int | float | None}
        ),
    )


def _is_start(start: Any) -> bool:
    environment = start.get("environment") if isinstance(start, dict) else None
    return isinstance(environment, dict) and isinstance(
        environment.get("versions", {}), dict
    )


def _read_json(path: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The contents, empty if there is no such file.

    Args:
        path: The file.
        kinds: The types of some fields, if those are present.
    """
    try:
        contents = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path} is damaged: {error}") from None
    if not isinstance(contents, dict):
        raise ReadError(f"{path} is damaged: it holds no JSON object")
    for name, kind in kinds.items():
        if name in contents and not isinstance(contents[name], kind):
            raise ReadError(
                f"{path} is damaged: its field {name} is {contents[name]!r:.40}"
            )
    return contents


def _read_rows(folder: Path, run: str, warnings: list[str]) -> Iterator[Row]:
    for part in PARTS:
        try:
            for tag, step, value in event_file.scalars(
                folder / part, warn=warnings.append
            ):
                yield Row(run, part, tag, step, value)
        except OSError as error:
            warnings.append(f"{folder / part} cannot be read: {error.strerror}")
