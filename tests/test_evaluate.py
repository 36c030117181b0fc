# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis import evaluate
from keras_bn import failures, training
from keras_bn.data import digits
from keras_bn.recipes import Recipe
from keras_bn.run_folder import open_run_folder

RECIPE = Recipe(
    width=8, steps=40, evaluate_every=40, measures=(), checkpoint_every=40
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders and results of two runs on the bundled digits."""
    found = {}
    for seed in range(2):
        path = tmp_path_factory.mktemp("runs") / f"seed{seed}"
        recipe = RECIPE.replace(seed=seed)
        with open_run_folder(path, recipe) as folder:
            _, found[path] = training.run(
                recipe, digits.load(), folder=folder, progress=False
            )
    return found


def test_top_k_against_counting_by_hand():
    p = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6]])
    labels = np.array([1, 2, 0], np.int32)
    assert evaluate.top(p, labels, 1) == pytest.approx(1 / 3)
    assert evaluate.top(p, labels, 2) == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_of_equal_probabilities_takes_the_first_classes(k):
    rng = np.random.default_rng(0)
    p = rng.integers(0, 3, (200, 6)) / 2
    p[rng.random((200, 6)) < 0.1] = np.nan
    labels = rng.integers(0, 6, 200)
    chosen = np.argsort(-p, axis=1, kind="stable")[:, :k]
    right = (chosen == labels[:, None]).any(1)
    right &= ~np.isnan(p[np.arange(200), labels])
    assert evaluate.top(p, labels, k) == right.mean()


def test_runs_have_the_accuracy_of_their_last_evaluation(runs):
    rows = evaluate.evaluate(list(runs))
    for row, result in zip(rows, runs.values(), strict=False):
        assert row["top_1"] == pytest.approx(result.final["val_accuracy"])
        assert row["top_1"] <= row["top_5"] <= 1
    assert [row["name"] for row in rows] == [
        *(Path(run).name for run in runs),
        "ensemble of 2",
    ]


def test_it_says_so_of_runs_on_other_data(runs, tmp_path, caplog):
    path = shutil.copytree(next(iter(runs)), tmp_path / "other")
    line = f"{path} was trained on other data"
    evaluate.evaluate([path])
    assert line not in caplog.messages
    file = evaluate.RunFolder(path).recipe_file
    contents = json.loads(file.read_text())
    contents["data"]["digest"] = "another"
    file.write_text(json.dumps(contents))
    evaluate.evaluate([path])
    assert line in caplog.messages


def test_the_ensemble_is_the_mean_probability(runs):
    (*_, ensemble) = evaluate.evaluate(list(runs))
    dataset = digits.load()
    logits = [
        training.restore(evaluate.RunFolder(path), dataset)[0].predict(
            dataset.x_test, verbose=0
        )
        for path in runs
    ]
    mean = sum(np.asarray(keras.ops.softmax(x)) for x in logits)
    expected = np.mean(mean.argmax(1) == dataset.y_test)
    assert ensemble["top_1"] == pytest.approx(expected)


def test_views_of_an_image_are_averaged():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.layers[0].set_weights([np.eye(2), np.zeros(2)])
    views = np.array([[[3.0, 0.0], [0.0, 1.0]]], np.float32)

    class Batches:
        def as_numpy_iterator(self):
            yield views, np.array([0], np.int32)

    counter = evaluate.Counter("", 1, unit="images")
    p, labels = evaluate.probabilities(model, Batches(), counter=counter)
    each = np.exp(views[0]) / np.exp(views[0]).sum(1, keepdims=True)
    np.testing.assert_allclose(p, [each.mean(0)], rtol=1e-6)
    assert labels.tolist() == [0]


def test_a_batch_that_cannot_be_read_is_one_line():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])

    def batches():
        yield np.zeros((3, 2), np.float32), np.zeros(3, np.int32)
        raise OSError(5, "Input/output error", "a.jpg")

    dataset = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec((3, 2)),
            tf.TensorSpec((3,), tf.int32),
        ),
    )
    counter = evaluate.Counter("", 6, unit="images")
    message = r"^a batch cannot be read: OSError: .*Input/output .*'a.jpg'$"
    with pytest.raises(failures.InputError, match=message):
        evaluate.probabilities(model, dataset, counter=counter)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--runs="], 2, "Received: none"),
        (["--runs=nothing"], 1, "holds no recipe"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, arguments, code, message):
    result = subprocess.run(
        [sys.executable, "-m", "analysis.evaluate", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**evaluate.os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    lines = [x for x in result.stderr.splitlines() if x.startswith("evaluate:")]
    assert (result.returncode, len(lines)) == (code, 1)
    assert message in lines[0]


@pytest.mark.parametrize("command", ["evaluate", "claims"])
@pytest.mark.parametrize("place", ["file/e.json", "folder"])
def test_what_cannot_be_written_is_said_before_anything_else(
    tmp_path, command, place
):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    result = subprocess.run(
        [
            *(sys.executable, "-m", f"analysis.{command}"),
            f"--output={tmp_path / place}",
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        f"{command}: {tmp_path / place} cannot be written: "
    )


def test_the_table_is_printed_though_the_file_cannot_be_written(
    tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise OSError("disk full")

    row = {
        "name": "a",
        "model": "mlp",
        "step": 1,
        "crops": 1,
        "top_1": 0.5,
        "top_5": 1.0,
    }
    given = {"runs": ["a"], "data_dir": None, "crops": "1"}
    monkeypatch.setattr(
        evaluate,
        "FLAGS",
        types.SimpleNamespace(**given, output=str(tmp_path / "e.json")),
    )
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: [row])
    monkeypatch.setattr(evaluate, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        evaluate.main()
    assert "50.00%" in capsys.readouterr().out


def test_the_command_prints_a_table_and_writes_json(runs, tmp_path):
    output = tmp_path / "e.json"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "analysis.evaluate"),
            f"--runs={','.join(map(str, runs))}",
            f"--output={output}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[:3] == ["network", "step", "crops"]
    assert len(json.loads(output.read_text())["results"]) == 3
