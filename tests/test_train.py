# SPDX-License-Identifier: Apache-2.0
"""The command line, as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import app

import train
from analysis import readers
from tests.commands import call

ROOT = Path(train.__file__).parent
QUICK = ["--steps=40", "--evaluate_every=20", "--measure_every=10", "--width=6"]


@pytest.fixture
def command(capsys, tmp_path):
    """Runs `train.py` with some flags; gives exit code, output, errors."""

    def run(*arguments):
        logdir = f"--logdir={tmp_path / 'runs'}"
        code = call(train.COMMAND, logdir, *arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rate=-1"], "learning_rate=-1"),
        (["--learning_rate=much"], "much"),
        (["--steps=1.5"], "1.5"),
        (["--dataset=nope"], "tfrecords. Received: dataset=nope"),
        (["--recipe=fig_1"], "Received: recipe=fig_1"),
        (["--measures=percentiles,speed"], "Received: measures="),
        (["--batch_size=100000"], "<= 1437"),
        (["--replicas=3"], "Received: replicas=3, strategy=one_device"),
        (["--shuffle=within"], "to model=mlp. Received: shuffle=within"),
        (["--distortion=weak"], "to model=mlp. Received: distortion=weak"),
        # Before the data, which are not there.
        (["--dataset=mnist", "--data_dir=no", "--l2=0.1"], "means nothing"),
        (["--dataset=cifar10", "--data_dir=no"], "inception trains on"),
        (["--resume", "--overwrite"], "not both"),
        (["--l2=0.1"], "l2 means nothing to model=mlp. Received: l2=0.1"),
        (["--data_dir=/tmp"], "digits is bundled. Received: data_dir=/tmp"),
        (["--run_name=../x"], "Received: run_name='../x'"),
        (["--run_name=/x"], "Received: run_name='/x'"),
        (["--run_name=."], "Received: run_name='.'"),
        (["--run_name=a\nb"], r"Received: run_name='a\nb'"),
        (["--run_name=claims/x"], "Received: run_name=claims/x"),
        (["--logdir=\udcff"], "logdir must be in UTF-8"),
        (["--nonsense=1"], "nonsense"),
        (["digits"], "Received: digits"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    command, tmp_path, arguments, message
):
    code, out, err = command(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("train.py: ")
    assert (out, err.count("\n")) == ("", 1)
    assert not (tmp_path / "runs").exists()


def test_help_is_no_failure(command):
    app.define_help_flags()
    code, out, err = command("--help")
    assert (code, err) == (0, "")
    assert "--helpfull" in out


@pytest.mark.parametrize("contents", [None, b"", b"PK\x03\x04 truncated"])
def test_missing_or_damaged_data_is_one_line_and_exit_code_1(
    command, tmp_path, contents
):
    if contents is not None:
        (tmp_path / "mnist.npz").write_bytes(contents)
    code, out, err = command("--dataset=mnist", f"--data_dir={tmp_path}")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "mnist.npz" in err
    assert not (tmp_path / "runs").exists()


def test_an_unwritable_logdir_is_one_line_and_exit_code_1(command, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = command(f"--logdir={tmp_path / 'file'}", *QUICK)
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot be written" in err


def test_dry_run_touches_nothing(command, tmp_path):
    code, out, _ = command("--dry_run", "--seed=5", "--recipe=fig1_keras")
    assert code == 0
    assert '"seed": 5' in out
    assert '"norm": "keras"' in out
    assert "trainable weights" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("recipe", "classes"),
    [("fig1_bn --dataset=mnist", 10), ("cifar10_bn_x5", 10), ("bn_x5", 1000)],
)
def test_dry_run_needs_no_data(recipe, classes, command, monkeypatch):
    monkeypatch.setattr(train.data, "load", None)
    code, out, err = command("--dry_run", *f"--recipe={recipe}".split())
    assert (code, err) == (0, "")
    assert "unknown: no data were read" in out
    (line,) = (line for line in out.splitlines() if "classes  " in line)
    assert line.split() == ["classes", f"{classes:,}", "(assumed)"]


def test_a_run_leaves_everything_in_its_folder(command, tmp_path):
    code, out, err = command(*QUICK)
    assert (code, err) == (0, "")
    assert "40 steps" in out
    folder = tmp_path / "runs" / "fig1_bn-digits-0"
    result = json.loads((folder / "result.json").read_text())
    assert [e["step"] for e in result["evaluations"]] == [20, 40]
    table = readers.read(tmp_path / "runs")
    (run,) = table.runs
    steps, values = table.series(run, "validation", "accuracy")
    assert steps.tolist() == [20, 40]
    assert values[-1] == pytest.approx(result["final"]["val_accuracy"])
    steps, _ = table.series(run, "analysis", "percentiles/hidden3/p15")
    assert steps.tolist() == [0, 10, 20, 30, 40]

    code, _, err = command(*QUICK)
    assert (code, err.count("\n")) == (1, 1)
    assert "--resume" in err


@pytest.mark.parametrize(
    ("flag", "code", "message"),
    [
        ("--seed=99999999999", 2, "< 4294967296. Received: seed=99999999999"),
        ("--width=1e12", 2, "<= 1000000. Received: width=1000"),
        ("--width=1e6", 1, "fit into the memory of the device. Received: wid"),
    ],
)
def test_overwrite_loses_nothing_where_the_new_run_cannot_begin(
    command, tmp_path, flag, code, message
):
    def files():
        found = (tmp_path / "runs").rglob("*")
        return {path: path.read_bytes() for path in found if path.is_file()}

    again = [*QUICK, "--run_name=run", "--overwrite"]
    assert command(*again)[0] == 0
    before = files()
    failed, _, err = command(*again, flag)
    assert (failed, err.count("\n")) == (code, 1)
    assert message in err
    assert files() == before
    assert command(*again, "--steps=20")[0] == 0
    assert not before.keys() & {p for p in files() if "events" in p.name}


def test_a_run_never_has_fewer_steps_than_it_has_done(command, tmp_path):
    name = "--run_name=run"
    assert command(name, *QUICK)[0] == 0
    recipe = (tmp_path / "runs" / "run" / "recipe.json").read_bytes()
    code, _, err = command(name, *QUICK, "--steps=20", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "steps must be >= 40, which the run has done" in err
    assert (tmp_path / "runs" / "run" / "recipe.json").read_bytes() == recipe


def test_measures_can_be_switched_off(command, tmp_path):
    code, _, _ = command(*QUICK, "--measures=", "--run_name=bare")
    assert code == 0
    table = readers.read(tmp_path / "runs")
    assert table.tags("bare", "analysis") == []
    assert table.tags("bare", "train") == ["accuracy", "loss"]


def test_sigterm_leaves_a_checkpoint_and_resume_ends_the_run(tmp_path):
    flags = [
        f"--logdir={tmp_path}", "--run_name=r", "--steps=1000000",
        "--evaluate_every=1000", "--measure_every=1000", "--width=6",
    ]  # fmt: skip
    python = [sys.executable, str(ROOT / "train.py"), *flags]
    events = tmp_path / "r" / "validation"
    with subprocess.Popen(
        python, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not any(p.stat().st_size > 200 for p in events.glob("events*")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no evaluation was written"
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    # Behind the line of the progress bar, which has moved by carriage returns.
    last = out.rstrip("\n").rsplit("\n", 1)[1]
    assert last.startswith("Stopped by SIGTERM after ")
    assert "--resume goes on" in last
    done = json.loads((tmp_path / "r" / "result.json").read_text())["steps"]
    end = (done // 1000 + 3) * 1000
    flags[2] = f"--steps={end}"
    resumed = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *flags, "--resume"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    steps, _ = readers.read(tmp_path).series("r", "validation", "accuracy")
    assert steps.tolist() == list(range(1000, end + 1, 1000))


def test_ctrl_c_while_tensorflow_loads_is_one_line(tmp_path):
    python = [sys.executable, str(ROOT / "train.py"), f"--logdir={tmp_path}"]
    with subprocess.Popen(
        python, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # TensorFlow's first words come long before it is loaded.
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, ""), said + err
    assert err.splitlines()[-1] == "train.py: interrupted"
    assert "Traceback" not in err


@pytest.mark.real_data
@pytest.mark.slow
def test_real_mnist_learns_sooner_with_bn(command, tmp_path, data_dir):
    for recipe in ("fig1_bn", "fig1_baseline"):
        code, _, err = command(
            f"--recipe={recipe}", "--dataset=mnist", f"--data_dir={data_dir}",
            "--steps=4000", "--measures=",
        )  # fmt: skip
        assert code == 0, err
    table = readers.read(tmp_path / "runs")
    last = {
        run: table.series(run, "validation", "accuracy")[1][-1]
        for run in table.runs
    }
    assert last["fig1_bn-mnist-0"] >= 0.94
    assert last["fig1_baseline-mnist-0"] <= 0.80
