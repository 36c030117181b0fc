# SPDX-License-Identifier: Apache-2.0
"""Samples with a stated error, moments, saturated and dead units."""

import math

import keras
import numpy as np
import pytest

from analysis import autodiff
from analysis.measures import samples
from analysis.measures.moments import moments
from analysis.measures.percentiles import percentiles
from analysis.measures.saturation import saturation
from tests.reference import measures as reference


@pytest.fixture(scope="module")
def values():
    """Two examples of 300 x 300 positions, three units, all different."""
    rng = np.random.default_rng(0)
    return rng.gamma(2, 1, (2, 300, 300, 3)) * [1, 2, 5] + [100, 0, -7]


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("limit", [300, 10_000])
def test_sampled_ranks_are_within_the_stated_error(values, per_unit, limit):
    q = (0.5, 2.5, 15, 50, 85, 97.5)
    sampled = percentiles(values, q, per_unit=per_unit, limit=limit)
    rows = values.reshape(-1, 3)
    groups = rows.T if per_unit else [rows.ravel()]
    columns = sampled.T if per_unit else [sampled]
    bound = samples.rank_error(limit)
    for numbers, column in zip(groups, columns, strict=True):
        ranks = 100 * np.searchsorted(np.sort(numbers), column) / len(numbers)
        # Interpolation between two neighbours adds a rank of the sample.
        assert np.abs(ranks - q).max() < bound + 100 / limit


def test_small_arrays_and_no_limit_are_exact(values):
    small = values[:, :20, :20]
    np.testing.assert_allclose(
        percentiles(small, (1, 50)),
        np.percentile(small, (1, 50)),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        percentiles(values, (1, 50), limit=None),
        np.percentile(values, (1, 50)),
        rtol=1e-12,
    )


def test_a_sample_repeats_and_depends_on_the_seed(values):
    first, again, other = (
        percentiles(values, limit=1000, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_stated_error():
    """The bound itself, and the figure that the documentation gives."""
    assert 2 * math.exp(
        -2 * 500 * (samples.rank_error(500) / 100) ** 2
    ) == pytest.approx(0.01)
    assert samples.rank_error(samples.LIMIT) == pytest.approx(0.318, abs=1e-3)


def test_rows_keep_every_example_and_are_rows_of_the_array(values):
    whole = samples.rows(values, limit=None)
    assert whole.shape == (180_000, 3)
    assert samples.rows(values, limit=300).shape == (100, 3)
    assert samples.rows(values, limit=2).shape == (2, 3)
    flat = values.reshape(-1, 3)
    known = {tuple(row) for row in flat}
    assert all(tuple(row) in known for row in samples.rows(values, limit=300))
    dense = values[0, 0]
    np.testing.assert_array_equal(samples.rows(dense, limit=3), dense)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_moments_equal_their_definitions(values, dtype):
    part = values[:, :7, :5].astype(dtype)
    found = moments(part, per_unit=True)
    for unit, numbers in enumerate(reference.units(part)):
        expected = reference.moments(numbers)
        actual = [statistic[unit] for statistic in found]
        np.testing.assert_allclose(actual, expected, rtol=1e-9)
    pooled = moments(part)
    expected = reference.moments(part.astype(np.float64).ravel().tolist())
    np.testing.assert_allclose(pooled, expected, rtol=1e-9)


def test_moments_of_a_constant():
    assert moments(np.full((4, 2), 3.0)) == (3, 0, 0)


@pytest.mark.parametrize(
    ("activation", "inputs", "saturated", "dead"),
    [
        # Unit 0 is fine, unit 1 dead, unit 2 saturated for half.
        ("relu", [[1, -1, 1], [2, -5, -1]], 3 / 6, 1 / 3),
        ("sigmoid", [[1, -9, 1], [0, 7, 5]], 3 / 6, 1 / 3),
        ("tanh", [[0.1, -9, 1], [0, 7, 5]], 3 / 6, 1 / 3),
        ("relu6", [[1, 7, 1], [2, -5, 8]], 3 / 6, 1 / 3),
        ("leaky_relu", [[1, 7, 1], [2, -5, 8]], 0, 0),
    ],
)
def test_saturated_values_and_dead_units(activation, inputs, saturated, dead):
    function = keras.activations.get(activation)
    slopes = autodiff.slopes(function)(np.array(inputs, np.float32))
    found = saturation(slopes)
    assert (found.saturated, found.dead) == pytest.approx((saturated, dead))
