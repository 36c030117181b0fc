# SPDX-License-Identifier: Apache-2.0
"""Runs `train.py` in processes of its own, for tests that harm them."""

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from analysis import event_file
from benchmarks import measure

ROOT = Path(__file__).parents[2]
#: A run of a few seconds with everything in it: two measures, evaluations,
#: checkpoints, none of them in step with another.
FLAGS = (
    "--steps=1200",
    "--width=8",
    "--batch_size=15",
    "--evaluate_every=100",
    "--measure_every=40",
    "--checkpoint_every=150",
    "--steps_per_execution=10",
)


def start(logdir, *flags, environment=None, largest_file=None):
    """Starts a run named `run`; its output is kept apart."""

    def limit():
        if largest_file is not None:
            limits = (largest_file, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    command = [
        *(sys.executable, str(ROOT / "train.py"), "--run_name=run"),
        *(f"--logdir={logdir}", *FLAGS, *flags),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
        env={**os.environ, **(environment or {})},
    )


def start_cluster(logdir, *flags, each=((), ())):
    """Starts a run in several processes, which have flags of their own too."""
    return [
        start(
            logdir,
            "--strategy=multiworker",
            *(*flags, *its_own),
            environment=environment,
        )
        for its_own, environment in zip(
            each, measure.cluster(len(each)), strict=True
        )
    ]


def end(process, *, seconds=120):
    """Waits for the end: exit code, output, errors (TensorFlow's left out)."""
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    lines = [x for x in errors.splitlines() if x.startswith("train.py: ")]
    assert "Traceback" not in errors, errors
    return process.returncode, out, "\n".join(lines)


def wait_for(path, process, *, seconds=90):
    """Waits until a file is there; fails if the process ends before."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def checkpoint(logdir, step):
    """The index file, which is written last, of a checkpoint."""
    return Path(logdir) / "run" / "checkpoints" / f"ckpt-{step}.index"


def series(logdir):
    """Every scalar of every event file, in the order of the files."""
    folder = Path(logdir) / "run"
    return {
        part: list(event_file.scalars(folder / part))
        for part in ("train", "validation", "analysis")
    }


def weights(logdir):
    """Every tensor of the newest checkpoint."""
    indexes = (Path(logdir) / "run" / "checkpoints").glob("ckpt-*.index")
    newest = max(indexes, key=lambda path: int(path.stem.split("-")[1]))
    reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith("variables/")
    }


def assert_same_run(first, second):
    """Weights and curves are the same, bit for bit."""
    assert_same_weights(first, second)
    assert series(first) == series(second)


def assert_same_weights(first, second):
    """The newest checkpoints hold the same, bit for bit."""
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def kill_until_done(logdir, *, seed, between, most):
    """Kills a run at random moments, up to so often; how often it did."""
    moments = random.Random(seed)
    kills = 0
    while True:
        process = start(logdir, "--resume")
        if kills < most:
            time.sleep(moments.uniform(*between))
            if process.poll() is None:
                process.kill()
                process.communicate()
                kills += 1
                continue
        code, _, errors = end(process)
        assert code == 0, errors
        return kills
