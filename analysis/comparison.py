# SPDX-License-Identifier: Apache-2.0
"""Which runs of a table are to be compared, and how they differ."""

import json
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from analysis.table import Run, Table

#: Fields in which runs with and without BN differ, and runs of several seeds.
_OF_NORM = frozenset({"recipe", "norm"})
_OF_SEED = frozenset({"seed"})


class Pair(NamedTuple):
    """Two runs of the MLP, with and without BN, otherwise alike."""

    with_bn: str
    without_bn: str
    label: str


def differing_fields(
    runs: Iterable[Run], *, ignored: Collection[str] = ()
) -> list[str]:
    """Fields of recipes that are not the same in all runs, in their order."""
    recipes = [run.recipe for run in runs]
    fields = dict.fromkeys(field for recipe in recipes for field in recipe)
    return [
        field
        for field in fields
        if field not in ignored
        and len({_text(recipe.get(field)) for recipe in recipes}) > 1
    ]


def shown(run: Run, field: str) -> str:
    """A field of a recipe as text to show; a dash if it is empty."""
    value = run.recipe.get(field)
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "-" if value is None else text or "-"


def pairs(table: Table) -> list[Pair]:
    """Runs with and without BN, with measures, that differ in nothing else.

    If there are several seeds, the first one.
    """
    runs = [run for run in _mlps(table) if run.recipe.get("measures")]
    without = {
        _rest(run, _OF_NORM): run.name
        for run in runs
        if run.recipe.get("norm") == "none"
    }
    found: dict[str, tuple[Run, str]] = {}
    for run in sorted(runs, key=lambda run: run.recipe.get("seed", 0)):
        key = _rest(run, _OF_NORM)
        if run.recipe.get("norm") == "batch" and key in without:
            group = _rest(run, _OF_NORM | _OF_SEED)
            found.setdefault(group, (run, without[key]))
    fields = differing_fields(
        (run for run, _ in found.values()),
        ignored=_OF_NORM | {"dataset", "seed"},
    )
    return [
        Pair(
            run.name,
            other,
            f"{run.recipe.get('dataset')}, {_title(run, ['seed', *fields])}",
        )
        for run, other in found.values()
    ]


def over_seeds(table: Table) -> dict[str, dict[str, list[str]]]:
    """Groups runs of the MLP that differ in seed and norm only, by norm.

    Returns:
        Finished runs of the groups with several seeds. The keys name the
        fields in which these groups differ, such as `learning_rate 0.5`.
    """
    groups: dict[str, list[Run]] = {}
    for run in _mlps(table):
        finished = run.result.get("steps") == run.recipe.get("steps")
        if finished and table.has(run.name, "validation", "accuracy"):
            group = groups.setdefault(_rest(run, _OF_NORM | _OF_SEED), [])
            group.append(run)
    several = [
        runs
        for runs in groups.values()
        if len({run.recipe.get("seed") for run in runs}) > 1
    ]
    fields = differing_fields(
        (runs[0] for runs in several), ignored=_OF_NORM | _OF_SEED
    )
    return {
        _title(runs[0], fields or ["dataset"]): _by_norm(runs)
        for runs in several
    }


def _title(run: Run, fields: Iterable[str]) -> str:
    return ", ".join(f"{field} {shown(run, field)}" for field in fields)


def _by_norm(runs: Iterable[Run]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(str(run.recipe.get("norm")), []).append(run.name)
    return dict(sorted(found.items()))


def _mlps(table: Table) -> list[Run]:
    return [
        run
        for run in table.runs.values()
        if run.recipe.get("model", "mlp") == "mlp"
    ]


def _rest(run: Run, ignored: frozenset[str]) -> str:
    """A recipe without some fields, as text that is equal for equal recipes."""
    return _text({k: v for k, v in run.recipe.items() if k not in ignored})


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
