# SPDX-License-Identifier: Apache-2.0
import pytest

from analysis import gallery
from analysis.figures import figure2
from analysis.table import Row, Run, Table

RECIPE = {"dataset": "cifar10", "steps": 400, "seed": 0}
ACCURACIES = {
    "inception": (0.2, 0.3, 0.4, 0.38),
    "bn_baseline": (0.3, 0.4, 0.5, 0.5),
    "bn_x5": (0.45, 0.5, 0.6, 0.6),
    "inception_sigmoid": (0.1, 0.1, 0.1, 0.1),
}


def recipe(name, **changes):
    norm = "none" if name.startswith("inception") else "batch"
    fields = {**RECIPE, "recipe": f"cifar10_{name}", "norm": norm}
    return {**fields, **changes}


@pytest.fixture
def table():
    runs = [Run(f"run-{name}", recipe(name), [], {}) for name in ACCURACIES]
    rows = [
        Row(f"run-{name}", "validation", "accuracy", 100 * i, accuracy)
        for name, accuracies in ACCURACIES.items()
        for i, accuracy in enumerate(accuracies, start=1)
    ]
    return Table(runs, rows)


def test_steps_to_the_best_of_inception(table):
    found = {r.variant: (r.steps_to_best, r.best) for r in figure2.rows(table)}
    assert found == {
        "inception": (300, 0.4),
        "bn_baseline": (200, 0.5),
        "bn_x5": (100, 0.6),
        "inception_sigmoid": (None, 0.1),
    }


def test_the_table_stands_beside_the_printed_one(table):
    _, first, *_, last = figure2.cells(figure2.rows(table))
    assert first == ["Inception", "300", "40.00%", "31.0M", "72.2%"]
    assert last == ["Inception-Sigmoid", "-", "10.00%", "-", "at chance"]


def test_a_line_for_every_variant(table):
    (panel,) = figure2.figure(table).axes
    labels = panel.get_legend_handles_labels()[1]
    assert labels == ["Inception", "BN-Baseline", "BN-x5", "Inception-Sigmoid"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("inception", {"norm": "batch"}),
        ("inception", {"seed": 1}),
        ("bn_x5", {"norm": "none"}),
        ("bn_x5", {"seed": 1}),
        ("bn_x5", {"steps": 800}),
        ("bn_x5", {"dataset": "tfrecords"}),
        ("inception_x5", {"dataset": "tfrecords"}),
    ],
)
def test_runs_that_cannot_be_compared_are_left_out(name, changes, table):
    other = Run("run-other", recipe(name, **changes), [], {})
    runs = [*table.runs.values(), other]
    rows = [*table.rows(), Row("run-other", "validation", "accuracy", 9, 0.9)]
    for given in (runs, runs[::-1]):
        found = Table(given, rows)
        assert figure2.rows(found) == figure2.rows(table)
        assert figure2.left_out(found) == ["run-other"]
        (line,) = (m for m in gallery.drawn(found)[1] if "Fig. 2" in m)
        assert "run-other" in line


def test_without_inception_it_is_said_what_is_missing(table):
    runs = [run for run in table.runs.values() if run.name != "run-inception"]
    missing = gallery.drawn(Table(runs, table.rows()))[1]
    assert sum("Fig. 2 is without run-" in line for line in missing) == 3
    unfinished = Run("run-x30", recipe("bn_x30"), [], {})
    found = Table([*table.runs.values(), unfinished], table.rows())
    assert figure2.left_out(found) == []


def test_without_inception_there_is_nothing_to_reach():
    with pytest.raises(KeyError, match="no run of the recipe inception"):
        figure2.rows(Table([], []))
