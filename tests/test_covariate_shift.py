# SPDX-License-Identifier: Apache-2.0
import keras
import numpy as np
import pytest

import analysis
from analysis import autodiff
from analysis.measures import covariate_shift
from analysis.readings import Readings
from analysis.schedules import every
from tests.reference import measures as reference


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_drift_of_moments_equals_its_definition(rng):
    before = rng.normal(size=(3, 4, 5, 6)) * [1, 2, 3, 1, 1, 1] + 20
    after = before * [1, 1, 2, 0.5, 1, 3] + [0, 4, 0, 0, 1, 1]
    found = covariate_shift.moment_drift(before, after)
    pairs = [
        (reference.moments(old), reference.moments(new))
        for old, new in zip(
            reference.units(before), reference.units(after), strict=True
        )
    ]
    assert found.mean == pytest.approx(
        np.mean([abs(new[0] - old[0]) / old[1] for old, new in pairs])
    )
    assert found.std == pytest.approx(np.mean(np.log([1, 1, 2, 2, 1, 3])))


def test_units_that_do_not_vary_are_left_out(rng):
    before = rng.normal(size=(8, 2))
    before[:, 0] = 7
    after = before + np.array([0.0, 1.0])
    found = covariate_shift.moment_drift(before, after)
    assert found.mean == pytest.approx(1 / before[:, 1].std())
    nothing = covariate_shift.moment_drift(np.ones((4, 2)), np.ones((4, 2)))
    assert np.isnan(nothing).all()


def test_gradient_shift_equals_its_definition(rng):
    old = [rng.normal(size=(3, 2)), rng.normal(size=4)]
    new = [rng.normal(size=(3, 2)), rng.normal(size=4)]
    found = covariate_shift.gradient_shift(old, new)
    distance = reference.norm([a - b for a, b in zip(old, new, strict=True)])
    assert found.distance == pytest.approx(distance / reference.norm(old))
    assert found.cosine == pytest.approx(reference.cosine(old, new))
    still = covariate_shift.gradient_shift(old, old)
    assert (still.distance, still.cosine) == pytest.approx((0, 1))
    zero = covariate_shift.gradient_shift([np.zeros(3)], [np.ones(3)])
    assert np.isnan(zero).all()


def test_only_the_layers_before_have_moved():
    """The gradient of a product of three numbers: all cases by hand."""

    def gradient(weights):
        a, b, b_too, c = (float(w) for w in weights)
        return [np.array(x) for x in (b * c, a * c, b_too, a * b)]

    before = [np.array(x) for x in (2.0, 3.0, 1.0, 5.0)]
    after = [np.array(x) for x in (4.0, 30.0, 1.0, 500.0)]
    first, second, third = covariate_shift.gradient_shifts(
        gradient,
        [[0], [1, 2], [3]],
        before,
        after,
        ahead=[[], [0], [0, 1, 2]],
    )
    assert (first.distance, first.cosine) == (0, 1)
    # Of layer 2, `a c` and `b_too`: a has moved, c has not.
    assert second.distance == pytest.approx(10 / np.hypot(10, 1))
    assert second.cosine == pytest.approx(
        (10 * 20 + 1) / (np.hypot(10, 1) * np.hypot(20, 1))
    )
    # Of layer 3, `a b`: both have moved.
    assert third.distance == pytest.approx(114 / 6)


def shifts(model, x, y, *, rate=0.0, **options):
    """Readings of one step on all examples."""
    model.compile(
        keras.optimizers.SGD(rate),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    readings = Readings()
    callback = analysis.CovariateShiftCallback(
        readings, schedule=every(1), probe=(x, y), **options
    )
    model.fit(x, y, batch_size=len(x), verbose=0, callbacks=[callback])
    assert readings.remarks == {}
    return {
        tag.removeprefix("covariate_shift/"): value
        for tag, value in readings.numbers.items()
    }


def example(shape):
    rng = np.random.default_rng(0)
    y = np.eye(3, dtype=np.float32)[rng.integers(0, 3, shape[0])]
    return rng.normal(size=shape).astype(np.float32), y


def dense(units, name, activation=None):
    return keras.layers.Dense(units, activation=activation, name=name)


def test_dropout_is_no_drift():
    model = keras.Sequential(
        [
            dense(32, "first", "relu"),
            keras.layers.Dropout(0.5, seed=3),
            dense(3, "second"),
        ]
    )
    found = shifts(model, *example((64, 5)))
    assert found["second/mean_drift"] == found["second/std_drift"] == 0
    assert found["second/cosine"] == pytest.approx(1)


@pytest.mark.parametrize("layers", [["d4"], ["d1", "d4"], ["d4", "d1"]])
def test_layers_that_are_not_looked_at_step_too(layers):
    def one_step(layers):
        keras.utils.set_random_seed(0)
        names = ("d1", "d2", "d3")
        hidden = [dense(8, name, "tanh") for name in names]
        model = keras.Sequential([*hidden, dense(3, "d4")])
        return shifts(model, *example((64, 5)), rate=1.0, layers=layers)

    every_layer, some = one_step(None), one_step(layers)
    assert every_layer["d4/distance"] > 0.01
    for name in layers:
        for what in ("cosine", "distance"):
            tag = f"{name}/{what}"
            assert some[tag] == pytest.approx(every_layer[tag], abs=1e-6)


def test_what_runs_in_a_loop_steps_in_its_place():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.LSTM(8), dense(8, "d1", "tanh"), dense(3, "d2")]
    )
    found = shifts(model, *example((64, 5, 3)), rate=1.0)
    assert found["lstm_cell/cosine"] == pytest.approx(1)
    assert found["lstm_cell/distance"] == 0
    assert found["d1/distance"] > 0


def test_gamma_and_beta_step_too():
    keras.utils.set_random_seed(0)
    x, y = example((64, 5))
    norm = keras.layers.BatchNormalization(name="bn")
    model = keras.Sequential(
        [
            keras.Input((5,)),
            dense(8, "d1"),
            norm,
            keras.layers.Activation("tanh"),
            dense(3, "d2"),
        ]
    )
    before = [w.numpy() for w in model.trainable_weights]
    found = shifts(model, x, y, rate=1.0)
    after = [w.numpy() for w in model.trainable_weights]
    gradient = autodiff.loss_and_gradients(model, x, y)
    whole = gradient(before)[1][-2:]
    moved = gradient([*after[:-2], *before[-2:]])[1][-2:]
    expected = covariate_shift.gradient_shift(whole, moved)
    assert found["d2/distance"] == pytest.approx(expected.distance, rel=1e-4)
