# SPDX-License-Identifier: Apache-2.0
"""What the callbacks of a run write, from training to the report."""

import csv
import json
import re
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from analysis import callbacks, readers, report
from analysis.figures import figure1, jacobians
from analysis.table import Row
from keras_bn import run_folder, training
from keras_bn.recipes import Recipe

MEASURES = Recipe.__dataclass_fields__["measures"].metadata["rule"]["choices"]
#: The tags of one block with a sigmoid and normalization, and of the rest.
OF_A_BLOCK = {
    "percentiles/hidden1/p15",
    "percentiles/hidden1/p50",
    "percentiles/hidden1/p85",
    "percentiles/hidden1/mean",
    "percentiles/hidden1/std",
    "percentiles/hidden1/skewness",
    "percentiles/hidden1/saturated",
    "percentiles/hidden1/dead",
    "jacobian/hidden1/inference/s1",
    "jacobian/hidden1/inference/mean_square",
    "jacobian/hidden1/inference/condition_number",
    "jacobian/hidden1/inference/isometry_distance",
    "jacobian/hidden1/inference/spectrum",
    "covariance/hidden1/condition_number",
    "covariance/hidden1/whitening_distance",
    "covariance/hidden1/directions",
    "covariance/hidden1/log10_spectrum",
}
OF_A_LINEAR_LAYER = {
    "gradients/hidden1_linear/norm",
    "weights/hidden1_linear/norm",
    "weights/hidden1_linear/growth",
    "weights/hidden1_linear/update_ratio",
    "covariate_shift/hidden1_linear/cosine",
    "covariate_shift/hidden1_linear/distance",
    "covariate_shift/hidden1_linear/mean_drift",
    "covariate_shift/hidden1_linear/std_drift",
}
OF_THE_NETWORK = {
    f"landscape/network/{name}"
    for name in (
        "loss",
        "loss_low",
        "loss_high",
        "gradient_change",
        "smoothness",
    )
}


def train(recipe, dataset, folder, *, measured=True):
    """Trains in a folder; the weights."""
    with run_folder.open_run_folder(folder, recipe) as opened:
        watching = callbacks.for_run(
            folder,
            recipe if measured else recipe.replace(measures=()),
            dataset,
        )
        model, _ = training.run(
            recipe,
            dataset,
            folder=opened,
            callbacks=watching,
            progress=False,
        )
    return [np.asarray(weight) for weight in model.weights]


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    return tiny_recipe.replace(measures=MEASURES, measure_every=15)


@pytest.fixture(scope="module")
def logdir(tmp_path_factory, recipe, tiny_dataset):
    """A run of each kind, with every measure."""
    folder = tmp_path_factory.mktemp("runs")
    for norm in ("batch", "none"):
        train(recipe.replace(norm=norm), tiny_dataset, folder / norm)
    return folder


@pytest.fixture(scope="module")
def written(logdir):
    """The analysis of the run with BN, as TensorBoard reads it."""
    reader = event_accumulator.EventAccumulator(
        str(logdir / "batch" / "analysis"), size_guidance={"tensors": 0}
    )
    return reader.Reload()


def test_the_tags_are_these(written):
    tags = set(written.Tags()["tensors"])
    units = {tag for tag in tags if "/unit" in tag}
    assert {tag.split("/")[3] for tag in units} == {"p15", "p50", "p85"}
    several = {t for t in tags if re.search(r"/s([2-9]|\d\d)$", t)}
    named = {
        tag
        for tag in tags - units - several
        if tag.split("/")[1:2]
        and tag.split("/")[1] in ("hidden1", "hidden1_linear", "network")
    }
    expected = OF_A_BLOCK | OF_A_LINEAR_LAYER | OF_THE_NETWORK
    assert named == expected
    assert {"custom_scalars__config__"} < tags
    assert {f"how_to_read/{measure}" for measure in MEASURES} <= tags


def test_what_is_recorded_is_what_was_scheduled(written, recipe):
    due = [*range(0, recipe.steps + 1, recipe.measure_every)]
    for tag in written.Tags()["tensors"]:
        recorded = [event.step for event in written.Tensors(tag)]
        if tag.startswith(("custom_scalars", "how_to_read")):
            assert recorded == [0], tag
        elif tag.startswith("covariate_shift") or "update_ratio" in tag:
            assert recorded == due[1:], tag  # they need a step before
        else:
            assert recorded == due, tag


def test_the_dashboard_shows_only_what_there_is(written):
    (event,) = written.Tensors("custom_scalars__config__")
    page = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    tags = written.Tags()["tensors"]
    margins = 0
    for category in page.category:
        for chart in category.chart:
            for series in chart.margin.series:
                margins += 1
                assert {series.value, series.lower, series.upper} <= set(tags)
            for pattern in chart.multiline.tag:
                assert any(re.match(pattern, tag) for tag in tags), pattern
    assert margins >= 2


def test_measuring_changes_no_bit(tmp_path, logdir, recipe, tiny_dataset):
    del logdir
    measured = train(recipe, tiny_dataset, tmp_path / "a")
    plain = train(recipe, tiny_dataset, tmp_path / "b", measured=False)
    for a, b in zip(measured, plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensorboard_serves_it(logdir):
    curve = {"run": "batch/analysis", "tag": "percentiles/hidden1/p50"}
    paths = [
        "custom_scalars/layout",
        f"scalars/scalars?{urllib.parse.urlencode(curve)}",
        "hparams/experiment?request=%7B%7D",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.served", str(logdir), *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    page, points, compared = json.loads(done.stdout.splitlines()[-1])
    titles = [category["title"] for category in page["category"]]
    assert len(titles) == len(set(titles)) >= 4
    assert [step for _, step, _ in points] == [0, 15, 30, 45, 60]
    # The page opens with five of them.
    columns = [column["name"] for column in compared["hparamInfos"]]
    telling = ["dataset", "learning_rate", "norm", "recipe", "seed"]
    assert columns[:5] == telling
    assert {*columns} == {*Recipe().hyperparameters()}
    metrics = [metric["displayName"] for metric in compared["metricInfos"]]
    assert metrics == ["test accuracy", "test loss"]


def test_the_report_has_figures_tables_and_raw_figures(logdir, tmp_path):
    lines = report.write_report(logdir, tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"index.html", "runs.json", "curves.csv"} < names
    assert len([n for n in names if n.endswith(".png")]) == 2
    assert page.count("data:image/png;base64,") == 2
    assert "http://" not in page
    assert "https://" not in page
    assert lines[0].startswith("run")
    raw = json.loads((tmp_path / "runs.json").read_text("utf-8"))
    assert raw["batch"]["recipe"]["norm"] == "batch"
    assert raw["batch"]["result"]["steps"] == 60
    with (tmp_path / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            Row(*key, int(step), float(value))
            for *key, step, value in list(csv.reader(file))[1:]
        ]
    assert rows == readers.read(logdir).rows()


def test_the_report_says_what_is_missing(logdir, tmp_path):
    lines = report.write_report(logdir / "batch", tmp_path)
    assert any("Fig. 1 is missing" in line for line in lines)
    assert "Fig. 1 is missing" in (tmp_path / "index.html").read_text("utf-8")


def test_figures_say_which_curve_is_missing(logdir):
    table = readers.read(logdir)
    with pytest.raises(KeyError, match="has no"):
        figure1.figure(table, with_bn="batch", without_bn="nothing")
    drawn = jacobians.figure(table, with_bn="batch", without_bn="none")
    assert len(drawn.axes) == len(jacobians.block_names(table, "batch"))


def test_a_run_that_is_put_aside_is_no_run(tmp_path):
    assert readers.PUT_ASIDE == run_folder.PUT_ASIDE
    for name in ("", *readers.PUT_ASIDE):
        folder = tmp_path / "run" / name
        folder.mkdir(parents=True)
        (folder / "recipe.json").write_text('{"recipe": {}, "starts": []}')
        (folder / run_folder.LOCK).touch()
    assert [*readers.read(tmp_path).runs] == ["run"]


@pytest.mark.parametrize(
    "modules", ["figures.figure1, analysis.figures.jacobians", "report"]
)
def test_readers_need_no_tensorflow(modules):
    code = (
        f"import sys, analysis.{modules}; "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
