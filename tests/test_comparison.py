# SPDX-License-Identifier: Apache-2.0
import numpy as np

from analysis import comparison
from analysis.figures import accuracies, seeds, style
from analysis.table import Row, Run, Table
from keras_bn.recipes import Recipe

OTHERS = {"model": "mlp", "measures": ["percentiles"], "dataset": "digits"}


def table(*recipes, steps=20):
    """Runs named by their place, with two evaluations each."""
    runs = [
        Run(str(i), {"steps": 20, **OTHERS, **recipe}, [], {"steps": steps})
        for i, recipe in enumerate(recipes)
    ]
    rows = [
        Row(run.name, "validation", "accuracy", step, 0.8 + step / 1000)
        for run in runs
        for step in (10, 20)
    ]
    return Table(runs, rows)


def test_a_pair_differs_in_the_norm_alone_and_is_of_the_first_seed():
    found = comparison.pairs(
        table(
            {"recipe": "b", "norm": "batch", "seed": 1},
            {"recipe": "n", "norm": "none", "seed": 1},
            {"recipe": "b", "norm": "batch", "seed": 0},
            {"recipe": "n", "norm": "none", "seed": 0},
            {"recipe": "b", "norm": "batch", "seed": 0, "width": 9},
            {"recipe": "k", "norm": "keras", "seed": 0},
        )
    )
    assert found == [comparison.Pair("2", "3", "digits, seed 0")]


def test_pairs_are_told_apart_by_what_differs():
    found = comparison.pairs(
        table(
            *[
                {"norm": norm, "seed": seed, "learning_rate": rate}
                for rate, seed in ((0.1, 0), (0.5, 0), (0.9, 3))
                for norm in ("batch", "none")
            ]
        )
    )
    assert [pair.label for pair in found] == [
        "digits, seed 0, learning_rate 0.1",
        "digits, seed 0, learning_rate 0.5",
        "digits, seed 3, learning_rate 0.9",
    ]


def test_runs_that_measured_nothing_are_no_pair():
    found = comparison.pairs(
        table(
            {"norm": "batch", "seed": 0, "measures": []},
            {"norm": "none", "seed": 0, "measures": []},
        )
    )
    assert found == []


def test_seeds_are_grouped_by_what_else_the_runs_share():
    recipes = [
        {"norm": norm, "seed": seed, "learning_rate": rate}
        for rate in (0.1, 0.5)
        for norm in ("none", "batch")
        for seed in (0, 1)
    ]
    alone = {"norm": "batch", "seed": 0, "learning_rate": 3.0}
    runs = table(*recipes, alone)
    found = comparison.over_seeds(runs)
    assert found == {
        "learning_rate 0.1": {"batch": ["2", "3"], "none": ["0", "1"]},
        "learning_rate 0.5": {"batch": ["6", "7"], "none": ["4", "5"]},
    }
    drawn = seeds.figure(runs, found)
    assert [axes.get_title() for axes in drawn.axes] == [*found]


def test_seeds_are_averaged_at_the_steps_that_all_have_evaluated():
    """Of a run that was extended, of one as usual, of one at other steps."""
    curves = {"0": (500, 750, 1000), "1": (500, 1000), "2": (250, 500, 1000)}
    runs = table(*[{"norm": "batch", "seed": seed} for seed in range(3)])
    rows = [
        Row(run, "validation", "accuracy", step, step / 2000 + int(run) / 10)
        for run, steps in curves.items()
        for step in steps
    ]
    drawn = seeds.figure(
        Table(runs.runs.values(), rows), {"": {"batch": [*curves]}}
    )
    (line,) = drawn.axes[0].lines
    assert line.get_xdata().tolist() == [500, 1000]
    np.testing.assert_allclose(line.get_ydata(), [0.35, 0.6])


def test_there_is_a_look_for_each_norm_of_a_recipe():
    rule = Recipe.__dataclass_fields__["norm"].metadata["rule"]
    assert {*style.LOOKS} == {*rule["choices"]}


def test_a_group_by_itself_is_named_by_its_data():
    runs = table(
        {"norm": "batch", "seed": 0},
        {"norm": "batch", "seed": 1},
    )
    assert [*comparison.over_seeds(runs)] == ["dataset digits"]


def test_runs_that_still_go_on_are_not_averaged():
    runs = table(
        {"norm": "batch", "seed": 0}, {"norm": "batch", "seed": 1}, steps=10
    )
    assert comparison.over_seeds(runs) == {}


def test_fields_that_differ_in_the_order_of_the_recipe():
    runs = table({"norm": "batch", "seed": 0}, {"norm": "none", "other": 1})
    found = comparison.differing_fields(runs.runs.values())
    assert found == ["norm", "seed", "other"]


def test_fields_are_shown_for_the_eye():
    recipe = {"measures": ["a", "b"], "none": None, "rate": 0.5, "empty": []}
    run = Run("r", recipe, [], {})
    shown = [comparison.shown(run, field) for field in [*recipe, "absent"]]
    assert shown == ["a b", "-", "0.5", "-", "-"]


def test_all_runs_are_drawn_each_with_a_look_of_its_own():
    runs = table(*[{"seed": seed} for seed in range(accuracies.MOST)])
    (panel,) = accuracies.figure(runs, [*runs.runs]).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in panel.lines}
    assert len(looks) == accuracies.MOST
    widths = [line.get_linewidth() for line in panel.lines]
    assert widths == sorted(set(widths), reverse=True)  # none hides another
