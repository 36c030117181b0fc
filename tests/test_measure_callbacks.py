# SPDX-License-Identifier: Apache-2.0
"""What the callbacks measure, against the measures themselves."""

import keras
import numpy as np
import pytest
from keras import layers

from analysis import JacobianCallback, PercentilesCallback
from analysis.measures import samples
from analysis.measures.jacobian import jacobian_spectrum
from analysis.readings import Readings
from analysis.schedules import every
from analysis.tags import percentile_name


def read(callback, model, x, **options):
    readings = Readings()
    made = callback(readings, schedule=every(1), probe=x, **options)
    made.set_model(model)
    made.start()
    assert readings.remarks == {}
    return readings.numbers


def values(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(2, 1, shape).astype(np.float32) + 3


@pytest.mark.parametrize("seed", range(3))
def test_ranks_are_within_the_stated_error_where_units_are_alike(seed):
    """64 equal units: to draw a position tells as much as one value of it."""
    model = keras.Sequential(
        [
            keras.Input((64, 64, 1)),
            layers.Conv2D(64, 1, kernel_initializer="ones", name="maps"),
        ]
    )
    x, q = values((2, 64, 64, 1)), (2.5, 15, 50, 85, 97.5)
    found = read(PercentilesCallback, model, x, q=q, seed=seed)
    for percentage in q:
        name = percentile_name(percentage)
        rank = 100 * np.mean(x <= found[f"percentiles/maps/{name}"])
        assert abs(rank - percentage) < samples.rank_error(samples.LIMIT)
        # The values of one unit are few enough to be taken whole.
        one = found[f"percentiles/maps/unit0/{name}"]
        assert one == pytest.approx(np.percentile(x, percentage), rel=1e-6)


def test_a_histogram_has_the_quantiles_of_the_values():
    model = keras.Sequential([keras.Input((5,)), layers.ReLU(name="all")])
    made = PercentilesCallback(
        sink := Readings(),
        schedule=every(1),
        probe=(x := values((200, 5))),
        layers=["all"],
        histogram=True,
    )
    made.set_model(model)
    made.start()
    found = np.sort(sink.distributions["percentiles/all/histogram"])
    expected = np.percentile(x, np.arange(0.25, 100, 0.5))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_batch_jacobian_is_taken_where_training_runs():
    """Scale and mean that reach the block differ much between the modes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.BatchNormalization(name="before"),
            layers.Dense(3, activation="sigmoid", name="block"),
        ]
    )
    x = values((6, 4))
    block = model.get_layer("block")
    normalized = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    for mode, at in (("batch", normalized), ("inference", x / 1.001**0.5)):
        expected = jacobian_spectrum(block, at, mode=mode)
        found = read(JacobianCallback, model, x, layers="block", mode=mode)
        name = f"jacobian/block/{mode}/mean_square"
        assert found[name] == pytest.approx(
            expected.mean_square.mean(), rel=1e-4
        )


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (JacobianCallback, {"method": "iterative"}, "one of auto, exact, lanc"),
        (JacobianCallback, {"method": "svd"}, "Received: method=svd"),
        (JacobianCallback, {"mode": "training"}, "Received: mode=training"),
        (JacobianCallback, {"k": 0}, "k must be 1 or more"),
        (PercentilesCallback, {"q": (101,)}, r"q must lie in \[0, 100\]"),
        (PercentilesCallback, {"q": 50}, "list of percentages. Received: q=50"),
        (PercentilesCallback, {"q": ()}, r"q must lie in \[0, 100\]"),
    ],
)
def test_wrong_arguments_are_said_at_once(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(Readings(), schedule=every(1), probe=values((6, 4)), **options)


@pytest.mark.parametrize("part", ["inputs", "outputs", "preactivation"])
def test_a_unit_that_a_block_lacks_is_refused_before_the_first_step(part):
    last = {
        "inputs": [layers.Dense(4), layers.ReLU(name="last")],
        "outputs": [layers.Dense(4, name="last")],
        "preactivation": [layers.Dense(4, activation="tanh", name="last")],
    }[part]
    model = keras.Sequential([keras.Input((5,)), *last])
    x = values((6, 5))
    found = read(PercentilesCallback, model, x, unit=3)
    assert "percentiles/last/unit3/p50" in found
    with pytest.raises(ValueError, match=r"below 4, .* of last\..*: unit=4"):
        read(PercentilesCallback, model, x, unit=4)
    with pytest.raises(ValueError, match="unit=-1"):
        read(PercentilesCallback, model, x, unit=-1)
