# SPDX-License-Identifier: Apache-2.0
"""Inspection of a saved model, by function and by command."""

import functools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers

import analysis
import keras_bn
from analysis import event_file, inspect, inspection, schedules
from analysis.callbacks import sets
from keras_bn import saved_models
from keras_bn.command_line import Command
from tests import archives, devices
from tests.commands import call

RNG = np.random.default_rng(0)
X = RNG.normal(2, 1, (40, 6, 6, 2)).astype(np.float32)
Y = RNG.integers(0, 3, 40)


def network(norm=keras_bn.BatchNormalization, *, compiled=True):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            norm(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(),
            layers.Dense(5, activation="tanh", name="hidden"),
            layers.Dense(3, name="logits"),
        ]
    )
    if compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
    return model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.keras"
    network().save(path)
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return path


@pytest.mark.parametrize(
    "norm",
    [
        keras_bn.BatchNormalization,
        layers.BatchNormalization,
        layers.GroupNormalization,
    ],
)
def test_it_reads_what_the_callbacks_write_before_the_first_step(
    tmp_path, norm
):
    """Same blocks, same examples, same numbers, to the last bit."""
    options = {
        "groups": 2 if norm is layers.GroupNormalization else None,
    }
    options = {k: v for k, v in options.items() if v}
    model = network(lambda **names: norm(**names, **options))
    readings = inspection.inspect_model(model, probe=(X, Y))
    watched = analysis.watch(
        tmp_path, probe=(X, Y), schedule=schedules.every(1000)
    )
    model.fit(X, Y, steps_per_epoch=1, verbose=0, callbacks=watched)
    written = {
        tag: value
        for tag, step, value in event_file.scalars(tmp_path / "analysis")
        if step == 0 and not tag.endswith("/growth")
    }
    assert {"conv", "hidden", "logits"} <= {t.split("/")[1] for t in written}
    assert written == {
        tag: float(np.float32(value)) for tag, value in readings.numbers.items()
    }
    assert readings.remarks == {}


def test_preset_measures_layers_and_examples_are_chosen():
    readings = inspection.inspect_model(
        network(),
        probe=(X, Y),
        preset="full",
        measures=["covariance"],
        layers=["relu", "hidden"],
        examples=7,
    )
    assert {t.split("/")[1] for t in readings.numbers} == {"relu", "hidden"}
    assert {t.split("/")[0] for t in readings.numbers} == {"covariance"}
    # Seven examples of 64 numbers vary in six directions.
    spectrum = readings.distributions["covariance/hidden/log10_spectrum"]
    assert np.sum(spectrum > -10) == 6


def test_large_examples_are_fewer_as_of_watch():
    images = np.random.default_rng(0).normal(size=(80, 64, 64, 3))
    model = keras.Sequential(
        [keras.Input((64, 64, 3)), layers.Conv2D(2, 3), layers.ReLU()]
    )
    for options, count in (({}, sets.FEWEST), ({"examples": 70}, 70)):
        parts = []
        with mock.patch.object(
            sets.MEASURES["percentiles"],
            "start",
            lambda self, parts=parts: parts.append(self.probe.inputs),
        ):
            inspection.inspect_model(
                model, probe=images, measures=["percentiles"], **options
            )
        assert [len(part) for part in parts] == [count]
    with pytest.raises(ValueError, match="examples must be None or an int"):
        inspection.inspect_model(model, probe=images, examples=0)


@pytest.mark.parametrize(
    ("compiled", "probe", "reason"),
    [
        (False, (X, Y), "the model is not compiled"),
        (True, X, "the probe has no targets"),
    ],
)
def test_without_a_loss_the_rest_is_measured(compiled, probe, reason):
    model = network(compiled=compiled)
    readings = inspection.inspect_model(model, probe=probe, preset="full")
    measures = {tag.split("/")[0] for tag in readings.numbers}
    assert measures == {"percentiles", "jacobian", "covariance", "weights"}
    assert set(readings.remarks) == {
        "missing/gradients/network",
        "missing/landscape/network",
    }
    assert all(reason in remark for remark in readings.remarks.values())
    for measure, left_out in (("landscape", 1), ("percentiles", 0)):
        readings = inspection.inspect_model(
            model, probe=probe, measures=[measure]
        )
        assert len(readings.remarks) == left_out


def test_what_is_not_finite_is_said_and_the_rest_measured():
    model = network()
    kernel = model.get_layer("hidden").kernel
    kernel.assign(kernel.value * np.nan)
    readings = inspection.inspect_model(model, probe=(X, Y))
    assert "not finite" in readings.remarks["missing/percentiles/hidden"]
    assert "percentiles/relu/p50" in readings.numbers
    assert "percentiles/hidden/p50" not in readings.numbers


@pytest.mark.parametrize(
    ("probe", "tag", "reason"),
    [
        ((X.astype("U4"), Y), "percentiles/all", "Cast string to float is not"),
        pytest.param(
            *((X, Y + 50), "gradients/network"),
            "a label value of 52 which is out",
            marks=devices.on_cpu,
        ),
        ((X, Y.astype("U1")), "gradients/network", "Cast string to float is"),
    ],
)
def test_of_what_tensorflow_says_the_reason_is_kept(probe, tag, reason):
    readings = inspection.inspect_model(network(), probe=probe)
    said = readings.remarks[f"missing/{tag}"]
    assert reason in said
    assert len(said) <= 300
    assert "Graph execution" not in said
    assert "node" not in said


def test_tables_have_a_row_per_layer_and_a_dash_for_what_is_missing():
    lines = inspection.tables(
        {"m/a/p15": 1.0, "m/a/p50": 2.5, "m/b/p15": 1e9, "n/a/batch/s1": 3.0}
    )
    assert lines == [
        "m    p15  p50",
        "a      1  2.5",
        "b  1e+09    -",
        "",
        "n, batch  s1",
        "a          3",
    ]


def test_a_file_is_printed_and_written(saved, capsys):
    data = saved.with_name("data.npz")
    inspect.inspect_file(saved, data=str(data), seed=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["percentiles", "p15", "p50", "p85"]
    folder = saved.with_name("model-inspection")
    assert lines[-1] == f"Written: {folder}"
    assert {path.name for path in folder.iterdir()} == {
        "inspection.json",
        *(f"{m}.png" for m in ("percentiles", "jacobian", "covariance")),
        "gradients.png",
    }
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000
    written = json.loads((folder / "inspection.json").read_text("utf-8"))
    assert (written["model"], written["seed"]) == ("model.keras", 3)
    assert written["numbers"]["jacobian/hidden/inference/s1"] > 0
    # Fewer examples than directions: infinite, which JSON does not have.
    assert written["numbers"]["covariance/hidden/condition_number"] is None
    assert len(written["distributions"]["jacobian/hidden/inference/spectrum"])


@pytest.mark.parametrize(
    ("model", "options", "code", "message"),
    [
        ("model.keras", {"data": None}, 2, "no --data"),
        ("model.keras", {"layers": ["rleu"]}, 2, "Received: rleu"),
        ("model.keras", {"layers": ["("]}, 2, "Received: '('"),
        ("model.keras", {"measures": ["speed"]}, 2, "Received: speed"),
        ("model.keras", {"data": "wrong.npz"}, 2, "inputs: (5, 3)"),
        ("model.keras", {"data": "empty.npz"}, 2, "at least one example"),
        ("model.keras", {"data": "other.npz"}, 1, "Received: z"),
        ("model.keras", {"data": "damaged.npz"}, 1, "damaged.npz cannot be"),
        ("model.keras", {"data": "blank.npz"}, 1, "blank.npz cannot be read"),
        ("model.keras", {"data": "locked.npz"}, 1, "locked.npz cannot be"),
        ("model.keras", {"data": "changed.npz"}, 1, "changed.npz cannot be"),
        ("model.keras", {"data": "single.npz"}, 1, "it is no .npz archive"),
        ("model.keras", {"data": "no.npz"}, 1, "no.npz cannot be read"),
        ("model.keras", {"data": "no"}, 1, "no does not exist"),
        ("no.keras", {}, 1, "no.keras cannot be read: No such file"),
        ("damaged.npz", {}, 1, "damaged.npz cannot be read: "),
    ],
)
def test_wrong_usage_and_bad_files_are_one_line(
    saved, model, options, code, message, capsys, monkeypatch
):
    monkeypatch.chdir(saved.parent)
    np.savez("wrong.npz", x=np.ones((5, 3), np.float32))
    np.savez("empty.npz", x=X[:0])
    np.savez("other.npz", z=X)
    Path("damaged.npz").write_bytes(b"PK\x03\x04 truncated")
    Path("blank.npz").touch()
    np.savez("locked.npz", x=X)
    archives.spoil(Path("locked.npz"), archives.ENCRYPTED)
    np.savez_compressed("changed.npz", x=X)
    contents = bytearray(Path("changed.npz").read_bytes())
    contents[200:400] = b"\xff" * 200
    Path("changed.npz").write_bytes(contents)
    np.save("single.npy", X)
    Path("single.npy").rename("single.npz")
    options = {"data": "data.npz", **options}
    inspecting = functools.partial(inspect.inspect_file, model, **options)
    assert call(Command("inspect", inspecting)) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("model-inspection").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model.keras", "--data=data.npz", "--measures=covariance"], 0, ""),
        (["--data=data.npz"], 2, "must be MODEL.keras. Received: none"),
    ],
)
def test_the_command(saved, arguments, code, message):
    done = subprocess.run(
        [sys.executable, "-m", "analysis.inspect", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=saved.parent,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == code, done.stderr
    said = [x for x in done.stderr.splitlines() if x.startswith("inspect:")]
    assert all(message in line for line in said)
    assert len(said) == (code != 0)
    assert (saved.with_name("model-inspection")).exists() == (code == 0)


@keras.saving.register_keras_serializable("tests")
class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred), -1)


def test_a_loss_that_keras_does_not_know_costs_only_the_gradients(
    tmp_path, monkeypatch
):
    model = network(compiled=False)
    model.compile("sgd", OwnLoss())
    model.save(tmp_path / "model.keras")
    registered = keras.saving.get_custom_objects()
    monkeypatch.delitem(registered, "tests>OwnLoss")
    monkeypatch.delattr("tests.test_inspect.OwnLoss")
    found = saved_models.load(tmp_path / "model.keras", compiled=True)
    assert not found.compiled


def test_a_file_of_earlier_keras_whose_loss_it_cannot_read_is_loaded(tmp_path):
    model = network(compiled=False)
    model.compile("sgd", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, of the format
        model.save(tmp_path / "model.h5")
    found = saved_models.load(tmp_path / "model.h5", compiled=True)
    np.testing.assert_array_equal(found(X), model(X))


def test_several_inputs_go_by_their_names(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    hidden = layers.Dense(4, "relu")(layers.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, hidden)
    path = tmp_path / "data.npz"
    np.savez(path, a=np.ones((5, 3), "f4"), b=np.ones((5, 2), "f4"))
    probe = inspect.load_probe(str(path), model)
    assert {name: x.shape for name, x in probe.inputs.items()} == {
        "a": (5, 3),
        "b": (5, 2),
    }
    readings = inspection.inspect_model(model, probe=probe)
    assert any(tag.endswith("/unit0/p50") for tag in readings.numbers)


def test_images_are_taken_in_the_size_of_the_model(tmp_path):
    for i, shade in enumerate((40, 200)):
        folder = tmp_path / "images" / "train" / str(i)
        folder.mkdir(parents=True)
        pixels = np.full((9, 9, 3), shade, np.uint8)
        keras.utils.save_img(folder / "0.png", pixels, scale=False)
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(2, 3)])
    probe = inspect.load_probe(str(tmp_path / "images"), model)
    assert (probe.inputs.shape, len(probe.targets)) == ((2, 6, 6, 3), 2)
    one = inspect.load_probe(str(tmp_path / "images"), model, examples=1)
    assert one.inputs.shape == (1, 6, 6, 3)
    flat = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"images of one size.*\(None, 4\)"):
        inspect.load_probe(str(tmp_path / "images"), flat)
