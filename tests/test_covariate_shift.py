# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from analysis.measures import covariate_shift
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
    assert found.distance == pytest.approx(distance)
    assert found.relative == pytest.approx(distance / reference.norm(old))
    assert found.cosine == pytest.approx(reference.cosine(old, new))
    still = covariate_shift.gradient_shift(old, old)
    assert (still.distance, still.cosine) == pytest.approx((0, 1))
    zero = covariate_shift.gradient_shift([np.zeros(3)], [np.ones(3)])
    assert zero.distance == pytest.approx(3**0.5)
    assert np.isnan([zero.relative, zero.cosine]).all()


def test_only_the_layers_before_have_moved():
    """The gradient of a product of three numbers: all cases by hand."""

    def gradient(weights):
        a, b, b_too, c = (float(w) for w in weights)
        return [np.array(x) for x in (b * c, a * c, b_too, a * b)]

    before = [np.array(x) for x in (2.0, 3.0, 1.0, 5.0)]
    after = [np.array(x) for x in (4.0, 30.0, 1.0, 500.0)]
    first, second, third = covariate_shift.gradient_shifts(
        gradient, [[0], [1, 2], [3]], before, after
    )
    assert (first.distance, first.cosine) == (0, 1)
    # Of layer 2, `a c` and `b_too`: a has moved, c has not.
    assert second.distance == pytest.approx(abs(2 * 5 - 4 * 5))
    assert second.cosine == pytest.approx(
        (10 * 20 + 1) / (np.hypot(10, 1) * np.hypot(20, 1))
    )
    # Of layer 3, `a b`: both have moved.
    assert third.distance == abs(2 * 3 - 4 * 30)
