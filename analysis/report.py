# SPDX-License-Identifier: Apache-2.0
"""Readers + figures -> a folder with pictures and one page.

python -m analysis.report --logdir=runs --output=report
"""

import base64
import dataclasses
import html
import io
import json
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from absl import flags
from matplotlib.figure import Figure

from analysis import event_file, readers, summaries
from analysis.figures import figure1, figure2, jacobians
from analysis.table import Run, Table
from analysis.text import text_table

FLAGS = flags.FLAGS

#: Test accuracies whose first step is reported, and steps looked at.
THRESHOLDS = (0.90, 0.95)
STEPS = (4_000, 10_000, 50_000)


class Picture(NamedTuple):
    """A drawn figure: file name without ending, caption, PNG bytes."""

    name: str
    caption: str
    png: bytes


def write_report(logdir: str | Path, output: str | Path) -> list[str]:
    """Writes pictures, `index.html` and `runs.json`, the raw figures.

    The pictures also become TensorBoard images, in `<logdir>/figures`.

    Args:
        logdir: Folder of the runs.
        output: Folder to write; made if missing.

    Returns:
        Lines for the terminal: the key figures, then what was written.

    Raises:
        analysis.readers.ReadError: If there are no runs.
        OSError: If something cannot be written.
    """
    table = readers.read(logdir)
    pictures, missing = _draw(table)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        _write(folder / f"{picture.name}.png", picture.png)
    raw = {name: dataclasses.asdict(run) for name, run in table.runs.items()}
    _write(folder / "runs.json", json.dumps(raw, indent=2).encode("utf-8"))
    page = _page(table, pictures, missing)
    _write(folder / "index.html", page.encode("utf-8"))
    _write_images(Path(logdir), pictures)
    return [
        *text_table(key_figures(table)),
        *text_table(_variants(table)),
        *missing,
        f"Written: {folder / 'index.html'}, "
        + ", ".join(f"{picture.name}.png" for picture in pictures),
    ]


def key_figures(table: Table) -> list[list[str]]:
    """A head and a row per run: accuracy at some steps, steps to a threshold.

    Returns:
        Rows of cells; a dash where a run has no such figure.
    """
    head = [
        "run",
        *(f"at {step:,}" for step in STEPS),
        *(f"steps to {threshold:.0%}" for threshold in THRESHOLDS),
        "best",
        "steps",
        "seconds",
    ]
    return [head, *(_figures_of(table, run) for run in table.runs.values())]


def _figures_of(table: Table, run: Run) -> list[str]:
    if not table.has(run.name, "validation", "accuracy"):
        return [run.name, *["-"] * (len(STEPS) + len(THRESHOLDS) + 3)]
    steps, accuracy = table.series(run.name, "validation", "accuracy")
    at = dict(zip(steps.tolist(), accuracy.tolist(), strict=True))
    first = [steps[accuracy >= threshold] for threshold in THRESHOLDS]
    seconds = run.result.get("seconds")
    return [
        run.name,
        *(f"{at[step]:.4f}" if step in at else "-" for step in STEPS),
        *(f"{reached[0]:,}" if len(reached) else "-" for reached in first),
        f"{accuracy.max():.4f}",
        f"{steps[-1]:,}",
        "-" if seconds is None else f"{seconds:.0f}",
    ]


def _draw(table: Table) -> tuple[list[Picture], list[str]]:
    """Every figure that the runs allow, and a line for each that they don't."""
    pictures: list[Picture] = []
    missing: list[str] = []
    pairs = _pairs(table)
    if not pairs:
        missing.append(
            "Fig. 1 is missing: it needs a run of fig1_bn and one of "
            "fig1_baseline that differ in nothing else"
        )
    for with_bn, without_bn, label in pairs:
        figures: dict[str, tuple[Callable[..., Figure], str]] = {
            "figure1": (
                figure1.figure,
                f"Fig. 1 of the paper, {label}. (a) Test accuracy; (b, c) the "
                "15th, 50th and 85th percentile of the input of one sigmoid "
                "of the last hidden layer, over test examples.",
            ),
            "jacobians": (
                jacobians.figure,
                f"Singular values of each block's Jacobian at inference, "
                f"{label}: means over test examples. The paper conjectures "
                "values near 1 with batch normalization.",
            ),
        }
        for name, (draw, caption) in figures.items():
            try:
                drawn = draw(table, with_bn=with_bn, without_bn=without_bn)
            except KeyError as error:
                missing.append(f"{name}, {label}, is missing: {error.args[0]}")
                continue
            file_name = f"{name}-{label.replace(', seed ', '-')}"
            pictures.append(Picture(file_name, caption, _png(drawn)))
    if "inception" in figure2.runs_of(table):
        caption = (
            "Fig. 2 of the paper, at the scale of these runs: test accuracy of "
            "Inception and its batch-normalized variants; a diamond where one "
            "is as good as Inception ever gets."
        )
        pictures.append(
            Picture("figure2", caption, _png(figure2.figure(table)))
        )
    return pictures, missing


def _variants(table: Table) -> list[list[str]]:
    """The table of Fig. 3 beside the printed one; empty without such runs."""
    if "inception" not in figure2.runs_of(table):
        return []
    return figure2.cells(figure2.rows(table))


def _pairs(table: Table) -> list[tuple[str, str, str]]:
    """Runs with and without BN whose recipes are otherwise the same."""

    def key(run: Run) -> tuple[Any, ...]:
        ignored = {"recipe", "norm"}
        items = {k: v for k, v in run.recipe.items() if k not in ignored}
        return tuple(sorted((k, str(v)) for k, v in items.items()))

    without = {
        key(run): run
        for run in table.runs.values()
        if run.recipe.get("norm") == "none"
    }
    pairs = []
    for run in table.runs.values():
        of_figure1 = run.recipe.get("model", "mlp") == "mlp"
        with_bn = run.recipe.get("norm") == "batch"
        if of_figure1 and with_bn and key(run) in without:
            label = f"{run.recipe['dataset']}, seed {run.recipe['seed']}"
            pairs.append((run.name, without[key(run)].name, label))
    return pairs


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _write(path: Path, contents: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(contents)
    temporary.replace(path)


def _write_images(logdir: Path, pictures: list[Picture]) -> None:
    """The figures as images of a run `figures` of their own."""
    if not pictures:
        return
    folder = logdir / "figures"
    for path in event_file.event_files(folder):
        path.unlink()  # the page shows the newest drawing only
    writer = summaries.Writer(folder)
    writer.open(0)
    for picture in pictures:
        writer.image(picture.name, picture.png, step=0)
    writer.close()


def _page(table: Table, pictures: list[Picture], missing: list[str]) -> str:
    figures = "\n".join(
        f'<figure><img alt="{html.escape(p.name)}" '
        f'src="data:image/png;base64,{base64.b64encode(p.png).decode()}">'
        f"<figcaption>{html.escape(p.caption)}</figcaption></figure>"
        for p in pictures
    )
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in missing)
    recipes = "\n".join(_recipe_html(run) for run in table.runs.values())
    variants = _variants(table)
    return _PAGE.substitute(
        table=_html_table(key_figures(table)),
        variants=(
            "<h2>Fig. 3: steps to Inception's best</h2>"
            f'<div class="wide">{_html_table(variants)}</div>'
            if variants
            else ""
        ),
        figures=figures,
        missing=f"<h2>Missing</h2><ul>{notes}</ul>" if notes else "",
        recipes=recipes,
    )


def _html_table(rows: list[list[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
        for row in body
    )
    return (
        f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _recipe_html(run: Run) -> str:
    versions = run.environment.get("versions", {})
    facts = {
        **run.recipe,
        "device": run.environment.get("device", "-"),
        "platform": run.environment.get("platform", "-"),
        **{f"{name} version": version for name, version in versions.items()},
    }
    rows = [["field", "value"], *([k, str(v)] for k, v in facts.items())]
    return (
        f"<details><summary>{html.escape(run.name)}</summary>"
        f"{_html_table(rows)}</details>"
    )


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>keras-bn report</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  margin: 0 auto; max-width: 64rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 1rem 0; } img { width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
details { margin: .5rem 0; } summary { cursor: pointer; }
</style>
<h1>Batch normalization, measured</h1>
<h2>Key figures</h2>
<p>Test accuracy after some numbers of steps, and the first evaluation at or
above a threshold.</p>
<div class="wide">$table</div>
$variants
<h2>Figures</h2>
$figures
$missing
<h2>Recipes and environments</h2>
$recipes
</html>
""")


def main() -> None:
    """Writes the report, prints its figures."""
    print("\n".join(write_report(FLAGS.logdir, FLAGS.output)))


if __name__ == "__main__":
    # Here, as it loads TensorFlow, which reports do without.
    from keras_bn.command_line import Command

    flags.DEFINE_string("logdir", "runs", "folder of the runs")
    flags.DEFINE_string("output", "report", "folder to write")
    Command("report", main).run()
