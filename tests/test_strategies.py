# SPDX-License-Identifier: Apache-2.0
"""Two devices and two processes do what one device does."""

import os
import subprocess
import sys

import numpy as np
import pytest

from analysis import event_file
from benchmarks import measure
from keras_bn.backend import strategies
from tests import devices
from tests.faults import processes

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


def start(strategy, dtype, path, **environment):
    command = [
        *(sys.executable, "-m", "tests.trained"),
        *(strategy, dtype, str(path)),
    ]
    return subprocess.Popen(
        command,
        cwd=processes.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
    )


def trained(paths, running):
    """What each process has written."""
    for process in running:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    return [dict(np.load(path, allow_pickle=False)) for path in paths]


@pytest.fixture(scope="module", params=TOLERANCES)
def one_device(request, tmp_path_factory):
    """Everything after training on one device; and the dtype."""
    path = tmp_path_factory.mktemp("one") / "result.npz"
    process = start("one_device", request.param, path)
    return *trained([path], [process]), request.param


def assert_close(result, expected, dtype):
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        scale = np.abs(array).max()
        error = np.abs(result[name] - array).max()
        assert error <= TOLERANCES[dtype] * scale, name


@pytest.mark.slow
def test_two_devices(tmp_path, one_device):
    expected, dtype = one_device
    path = tmp_path / "result.npz"
    (result,) = trained([path], [start("mirrored", dtype, path)])
    assert_close(result, expected, dtype)


@pytest.mark.slow
def test_two_devices_are_measured_too(tmp_path):
    measures = ("landscape", "covariate_shift", "gradients", "percentiles")
    command = [
        *(sys.executable, "train.py", "--strategy=mirrored", "--replicas=2"),
        *("--steps=4", "--measure_every=2", "--run_name=run"),
        *(f"--measures={','.join(measures)}", f"--logdir={tmp_path}"),
    ]
    subprocess.run(command, cwd=processes.ROOT, check=True, timeout=120)
    folder = tmp_path / "run" / "analysis"
    tags = {tag.partition("/")[0] for tag, *_ in event_file.scalars(folder)}
    assert {*measures} <= tags
    texts = {tag for tag, *_ in event_file.texts(folder)}
    assert not any(tag.startswith("missing") for tag in texts)


@pytest.mark.slow
def test_two_processes(tmp_path, one_device):
    expected, dtype = one_device
    paths = [tmp_path / f"{index}.npz" for index in range(2)]
    running = [
        start("multiworker", dtype, path, **environment)
        for path, environment in zip(paths, measure.cluster(2), strict=True)
    ]
    results = trained(paths, running)
    for result in results:
        assert_close(result, expected, dtype)
    for name in expected:
        np.testing.assert_array_equal(results[0][name], results[1][name])


@pytest.mark.parametrize(
    "config",
    [
        None,
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "x", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", '
        '"index": 1}}',
    ],
)
def test_a_cluster_must_be_described(monkeypatch, config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match="needs the environment variable"):
        strategies.make("multiworker", 0)


def test_a_started_processor_cannot_be_split_further():
    np.asarray(strategies.tf.zeros(1))
    with pytest.raises(ValueError, match="Received: replicas=64"):
        strategies.make("mirrored", 64)


@pytest.mark.parametrize("replicas", [pytest.param(0, marks=devices.on_cpu), 1])
def test_a_single_device_needs_no_replicas(replicas):
    strategy = strategies.make("mirrored", replicas)
    assert strategy is strategies.make("one_device", 0)
    assert strategies.is_alone(strategy)
