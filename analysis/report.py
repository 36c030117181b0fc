# SPDX-License-Identifier: Apache-2.0
r"""Writes a folder with one page about runs, and the pictures on it.

    python -m analysis.report --logdir=runs --output=report

The page includes the claims if they were measured into the log folder:

    python -m analysis.claims --logdir=runs/claims \
        --output=runs/claims.json --figures=runs

The runs of the claims are then in `runs/claims`, and the page does not compare
them with the others. Likewise ensembles, if they were evaluated there:

    python -m analysis.evaluate --runs=RUNS --output=runs/evaluation.json
"""

import csv
import dataclasses
import io
import itertools
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags

from analysis import (
    comparison,
    files,
    gallery,
    page,
    readers,
    summaries,
)
from analysis.figures import figure1, figure2, figure4
from analysis.page import Picture
from analysis.table import Row, Run, Table
from analysis.text import text_table

FLAGS = flags.FLAGS

#: Test accuracies whose first step is reported, and steps whose accuracy is
#: reported.
THRESHOLDS = (0.90, 0.95)
STEPS = (4_000, 10_000, 50_000)


def write_report(logdir: str | Path, output: str | Path) -> list[str]:
    """Writes pictures, `index.html`, and the raw figures.

    These are `runs.json`, every run's recipe, environment and result, and
    `curves.csv`, every scalar that was recorded, a row each. The pictures of
    runs also become TensorBoard images, in `<logdir>/figures`, if that can be
    written.

    Args:
        logdir: Folder of the runs, and of `claims.json`, `claim-*.png` and
            `evaluation.json`, `evaluation-*.json`.
        output: Folder to write; made if missing.

    Returns:
        Lines for the terminal: the key figures, then what was written.

    Raises:
        analysis.readers.ReadError: If there are no runs, or a JSON file or a
            picture is damaged.
        OSError: If something cannot be written.
    """
    table = readers.read(logdir)
    claims = readers.read_claims(logdir)
    evaluations = figure4.cells(readers.read_evaluations(logdir))
    pictures, missing = gallery.drawn(table)
    of_claims = [
        Picture(name, "", png)
        for name, png in readers.read_claim_pictures(logdir).items()
    ]
    if not claims:
        missing.append(
            "the claims are missing: python -m analysis.claims "
            f"--logdir={shlex.quote(str(Path(logdir) / readers.OF_CLAIMS))} "
            f"--output={shlex.quote(f'{logdir}/claims.json')} "
            f"--figures={shlex.quote(str(logdir))}"
        )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in [*pictures, *of_claims]:
        files.write(folder / picture.file, picture.png)
    raw = {name: dataclasses.asdict(run) for name, run in table.runs.items()}
    files.write(folder / "runs.json", json.dumps(raw, indent=2).encode("utf-8"))
    files.write(folder / "curves.csv", _csv(table).encode("utf-8"))
    contents = _page(
        logdir, table, pictures, evaluations, claims, of_claims, missing
    )
    files.write(folder / "index.html", contents.encode("utf-8"))
    missing += _write_images(Path(logdir), pictures)
    return [
        *text_table(key_figures(table)),
        *text_table(_variants(table)),
        *text_table(evaluations),
        *missing,
        "Written: "
        + ", ".join(
            [
                str(folder / "index.html"),
                *(p.file for p in [*pictures, *of_claims]),
                "runs.json",
                "curves.csv",
            ]
        ),
    ]


def key_figures(table: Table) -> list[list[str]]:
    """A head and a row per run: accuracy at some steps, steps to a threshold.

    If there are runs on MNIST, the paper's printed values follow.

    Returns:
        Rows of cells; a dash where there is no such figure.
    """
    head = [
        "run",
        *(f"at {step:,}" for step in STEPS),
        *(f"steps to {threshold:.0%}" for threshold in THRESHOLDS),
        "best",
        "steps",
        "seconds",
    ]
    rows = [_figures_of(table, run) for run in table.runs.values()]
    if any(run.recipe.get("dataset") == "mnist" for run in table.runs.values()):
        rows += _printed(len(head))
    return [head, *rows]


def _printed(columns: int) -> list[list[str]]:
    """Fig. 1(a) of the paper at the steps looked at."""
    with_bn = {step: with_bn for step, with_bn, _ in figure1.PRINTED}
    without = {step: without for step, _, without in figure1.PRINTED}
    rows = [
        ["printed, with BN", *(f"{with_bn[step]:.3f}" for step in STEPS)],
        ["printed, without BN", *(f"{without[step]:.3f}" for step in STEPS)],
    ]
    return [[*row, *["-"] * (columns - len(row))] for row in rows]


def _figures_of(table: Table, run: Run) -> list[str]:
    if not table.has(run.name, "validation", "accuracy"):
        return [run.name, *["-"] * (len(STEPS) + len(THRESHOLDS) + 3)]
    steps, accuracy = table.series(run.name, "validation", "accuracy")
    at = dict(zip(steps.tolist(), accuracy.tolist(), strict=True))
    first = [table.first_step(run.name, goal) for goal in THRESHOLDS]
    seconds = run.result.get("seconds")
    return [
        run.name,
        *(f"{at[step]:.4f}" if step in at else "-" for step in STEPS),
        *("-" if step is None else f"{step:,}" for step in first),
        f"{accuracy.max():.4f}",
        f"{steps[-1]:,}",
        "-" if seconds is None else f"{seconds:.0f}",
    ]


def _variants(table: Table) -> list[list[str]]:
    """The table of Fig. 3 beside the printed one; empty without such runs."""
    if not figure2.runs_of(table):
        return []
    return figure2.cells(figure2.rows(table))


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(table.rows())
    return text.getvalue()


def _write_images(logdir: Path, pictures: list[Picture]) -> list[str]:
    """Writes the figures as images of a separate run `figures`, if possible.

    Returns:
        A line about the reason if they could not be written.
    """
    folder = logdir / "figures"
    if (folder / "recipe.json").exists():
        return [f"no images in TensorBoard: {folder} is a run"]
    if not pictures:
        return []
    # The page shows the newest drawing only.
    writer = summaries.Writer(folder, overwrite=True)
    try:
        writer.open(0)
        for picture in pictures:
            writer.image(picture.name, picture.png, step=0)
        writer.close()
    except OSError as error:
        return [f"no images in TensorBoard: {error}"]
    return []


def _page(
    logdir: str | Path,
    table: Table,
    pictures: list[Picture],
    evaluations: list[list[str]],
    claims: list[dict[str, Any]],
    of_claims: list[Picture],
    missing: list[str],
) -> str:
    runs = table.runs.values()
    return page.page(
        "Batch normalization, measured",
        page.section(
            "Key figures",
            page.paragraph(
                "Test accuracy after a given number of steps, and the first "
                "evaluated step at which it reaches a threshold."
            ),
            page.table(key_figures(table)),
        ),
        page.section(
            "Fig. 3: steps to Inception's best", page.table(_variants(table))
        ),
        page.section(
            "Fig. 4: networks and their ensemble",
            page.table(evaluations),
            page.paragraph("Printed errors, if any, are those on ImageNet.")
            if evaluations
            else "",
        ),
        page.section("Figures", *map(page.figure, pictures)),
        page.section(
            "Claims of the paper",
            _apart(logdir),
            *(_claim(row, of_claims) for row in claims),
        ),
        page.section("Missing", page.items([*table.warnings, *missing])),
        page.section(
            "What sets the runs apart", page.table(_differences(runs))
        ),
        page.section(
            "Recipes and environments",
            *(page.details(run.name, _recipe(run)) for run in runs),
        ),
    )


def _apart(logdir: str | Path) -> str:
    """Where the claims' own runs are, which the page does not compare."""
    count = len(readers.claim_runs(logdir))
    if not count:
        return ""
    folder = Path(logdir) / readers.OF_CLAIMS
    return page.paragraph(
        f"The {count} runs in {folder} were trained for the claims and are not "
        "among those compared here. To compare them on their own page: python "
        f"-m analysis.report --logdir={folder}"
    )


def _claim(row: dict[str, Any], pictures: list[Picture]) -> str:
    """A row of `claims.json`, and the picture that was drawn for it."""
    verdict = "not seen" if row.get("not_seen") else "FAILS"
    if row["holds"]:
        verdict = "holds"
    measured = [
        [name, "never" if value is None else f"{value:.4g}"]
        for name, value in row["measured"].items()
    ]
    name = f"claim-{row.get('name')}"
    return page.details(
        f"{row['number']} {verdict}: {row['claim']} (section {row['section']})",
        page.paragraph(f"Expected: {row['expected']}.")
        + (page.paragraph(f"Note: {row['note']}.") if row.get("note") else "")
        + page.table([["measured", ""], *measured])
        + "".join(page.figure(p) for p in pictures if p.name == name),
    )


def _differences(runs: Iterable[Run]) -> list[list[str]]:
    """A row per run, a column per field in which their recipes differ."""
    fields = comparison.differing_fields(runs)
    rows = [
        [run.name, *(comparison.shown(run, field) for field in fields)]
        for run in runs
    ]
    return [["run", *fields], *rows] if fields else []


def _recipe(run: Run) -> str:
    rows = [["field", "value"]]
    rows += [[field, comparison.shown(run, field)] for field in run.recipe]
    facts = run.environments
    for name in ("commit", "device", "processor", "platform"):
        rows.append([name, _over_starts(facts, name)])
    versions = [fact.get("versions", {}) for fact in facts]
    for name in dict.fromkeys(itertools.chain(*versions)):
        rows.append([f"{name} version", _over_starts(versions, name)])
    return page.table(rows)


def _over_starts(facts: Iterable[Mapping[str, Any]], name: str) -> str:
    """A fact of each start of a run, named again only if it has changed."""
    values = [str(fact[name]) for fact in facts if name in fact]
    changes = [value for value, _ in itertools.groupby(values)]
    return ", then ".join(changes) or "-"


def main() -> None:
    """Writes the report, prints its figures."""
    print("\n".join(write_report(FLAGS.logdir, FLAGS.output)))


if __name__ == "__main__":
    # Imported here because it loads TensorFlow, which reports do not need.
    from keras_bn.command_line import Command

    flags.DEFINE_string("logdir", "runs", "folder of the runs")
    flags.DEFINE_string("output", "report", "folder to write")
    Command("report", main).run()
