# SPDX-License-Identifier: Apache-2.0
"""Two replicas of a MirroredStrategy against one device on the full batch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import layers, replicas

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
cases = pytest.mark.parametrize("case", replicas.CASES)


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    """`of(prefix)`: the arrays of one case that two replicas gave."""
    path = tmp_path_factory.mktemp("replicas") / "results.npz"
    process = subprocess.run(
        [sys.executable, "-m", "tests.replicas", str(path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    with np.load(path) as arrays:
        results = dict(arrays)

    def of(prefix):
        start = prefix + "/"
        return {
            name.removeprefix(start): array
            for name, array in results.items()
            if name.startswith(start)
        }

    return of


def alone(case):
    """One device, the full batch; the CPU, as for the replicas."""
    x, dy, mask = case.inputs()
    with tf.device("CPU"):
        layer = case.layer(synchronized=False)
        call = layers.call(layer, x, dy, mask=mask if case.masked else None)
    return {**call._asdict(), **layers.statistics(layer)}


def oracle(case):
    layer = case.layer(synchronized=False)
    x, dy, mask = case.inputs()
    full = mask[..., None] if case.masked else None
    return layers.expected_step(layer, x, dy, mask=full)


@cases
def test_outputs_statistics_and_gradients_are_those_of_one_device(
    case, replicated
):
    measured, expected = replicated(case), alone(replicas.CASES[case])
    assert measured.keys() == expected.keys()
    for name, want in expected.items():
        error = layers.relative_error(measured[name], want)
        assert error < TOLERANCE[replicas.CASES[case].dtype], name


@pytest.mark.parametrize("case", ["far_16k", "far_524k"])
def test_float32_stays_exact_far_from_zero(case, replicated):
    want = oracle(replicas.CASES[case]).y
    assert np.abs(replicated(case)["y"] - want).max() <= 1e-4


@pytest.mark.parametrize("case", ["unequal-float64", "masked"])
def test_the_oracle_agrees(case, replicated):
    expected, measured = oracle(replicas.CASES[case]), replicated(case)
    for name in layers.Call._fields:
        want = getattr(expected, name)
        assert layers.relative_error(measured[name], want) < 1e-11, name


@pytest.mark.parametrize("name", replicas.ALSO_UNSYNCHRONIZED)
def test_unsynchronized_averages_are_the_mean_over_replicas(name, replicated):
    case, measured = replicas.CASES[name], replicated(f"unsynchronized/{name}")
    x, dy, mask = case.inputs()
    moved, outputs = [], []
    for part in (slice(None, case.split[0]), slice(case.split[0], None)):
        layer = case.layer(synchronized=False)
        own = mask[part] if case.masked else None
        outputs.append(layers.call(layer, x[part], dy[part], mask=own).y)
        moved.append(layers.statistics(layer))
    assert layers.relative_error(measured["y"], np.concatenate(outputs)) < 1e-12
    for key in ("moving_mean", "moving_variance"):
        want = np.mean([statistics[key] for statistics in moved], axis=0)
        assert layers.relative_error(measured[key], want) < 1e-12


def test_a_cumulative_average_takes_nothing_from_a_replica_without_values(
    replicated,
):
    """Else it would keep a part of its initial value."""
    name = replicas.EMPTY_UNSYNCHRONIZED
    expected = alone(replicas.CASES[name])
    measured = replicated(f"unsynchronized/{name}")
    for key, want in expected.items():
        if key not in layers.Call._fields:
            assert layers.relative_error(measured[key], want) < 1e-12, key


def test_fit_on_two_replicas_gives_the_weights_of_one_device(replicated):
    expected = replicas.fit(tf.distribute.get_strategy(), synchronized=True)
    measured = replicated("fit")
    assert measured.keys() == expected.keys()
    for name, want in expected.items():
        assert layers.relative_error(measured[name], want) < 1e-5, name


@pytest.mark.parametrize("synchronized", [True, False])
def test_one_replica_meets_no_other_in_a_compiled_step(
    synchronized, replicated
):
    """As of a `MirroredStrategy` on a single GPU."""
    measured = replicated(f"one_compiled/{synchronized}")
    expected = alone(replicas.CASES["feature_maps"])
    assert measured.keys() == expected.keys() - set(layers.Call._fields)
    for name, found in measured.items():
        assert layers.relative_error(found, expected[name]) < 1e-12, name


def test_variables_may_lie_in_one_place(replicated):
    """As of `CentralStorageStrategy`, whose variables need an aggregation."""
    measured = replicated("central_storage")
    expected = alone(replicas.CASES["feature_maps"])
    assert measured.keys() == expected.keys()
    for name, found in measured.items():
        assert layers.relative_error(found, expected[name]) < 1e-12, name


def test_replicas_do_not_meet_within_a_condition(replicated):
    assert "merge_call" in str(replicated("in_a_condition")["error"])


def test_second_order_gradients_are_those_of_one_device(replicated):
    expected = replicas.second_order(
        tf.distribute.get_strategy(), replicas.CASES["feature_maps"]
    )
    measured = replicated("second_order")["x"]
    assert layers.relative_error(measured, expected) < 1e-12
