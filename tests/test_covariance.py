# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

import keras_bn
from analysis.measures import covariance
from analysis.measures.moments import moments
from analysis.measures.spectra import condition_number
from tests.reference import measures as reference


@pytest.fixture(scope="module")
def mixing():
    return np.random.default_rng(1).normal(size=(5, 5)) * [1, 3, 0.1, 10, 1]


@pytest.fixture(params=[(40, 5), (4, 3, 2, 5), (3, 5)], ids=str)
def values(request, mixing):
    """Correlated units far from zero mean; also fewer examples than units."""
    rng = np.random.default_rng(0)
    return rng.normal(size=request.param) @ mixing + 1000


def test_spectrum_is_that_of_the_matrix(values):
    matrix = reference.covariance(values)
    expected = np.linalg.eigvalsh(matrix)[::-1]
    found = covariance.covariance_spectrum(values)
    np.testing.assert_allclose(found, expected, atol=1e-9 * expected[0])
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(np.trace(matrix))


def test_correlation_spectrum_is_that_of_the_matrix(values):
    expected = np.linalg.eigvalsh(reference.correlation(values))[::-1]
    found = covariance.covariance_spectrum(values, correlation=True)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_whitening_distance_is_that_of_the_matrix(values):
    matrix = reference.covariance(values)
    found = covariance.whitening_distance(
        covariance.covariance_spectrum(values)
    )
    expected = np.linalg.norm(matrix - np.eye(5)) / np.sqrt(5)
    assert found == pytest.approx(expected, rel=1e-9)


def test_white_values():
    """Signs in all combinations: mean 0, covariance I exactly."""
    values = np.stack(np.meshgrid(*[[-1, 1]] * 4), axis=-1)
    spectrum = covariance.covariance_spectrum(values)
    assert condition_number(spectrum) == pytest.approx(1)
    assert covariance.whitening_distance(spectrum) == pytest.approx(0)
    assert covariance.directions(spectrum) == 1


def test_batch_normalization_leaves_the_correlations(mixing):
    """What normalizing each unit by itself gives up against whitening."""
    values = np.random.default_rng(0).normal(size=(200, 5)) @ mixing + 50
    layer = keras_bn.BatchNormalization(dtype="float64", epsilon=0.0)
    after = np.asarray(layer(values, training=True))
    np.testing.assert_allclose(
        covariance.covariance_spectrum(after),
        covariance.covariance_spectrum(values, correlation=True),
        rtol=1e-6,
    )


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_directions_count_what_holds_the_share(share):
    spectrum = np.array([6.0, 2.0, 1.0, 0.95, 0.05, 0.0])
    found = covariance.directions(spectrum, share=share)
    assert found == reference.directions(spectrum, share)


def test_what_does_not_vary_has_no_rounding_that_would():
    constant = np.full((3, 2), 0.1)
    np.testing.assert_array_equal(
        covariance.covariance_spectrum(constant, correlation=True), 0
    )
    found = moments(constant, per_unit=True)
    for statistic in (found.std, found.skewness):
        np.testing.assert_array_equal(statistic, 0)


def test_values_that_do_not_vary():
    spectrum = covariance.covariance_spectrum(np.full((4, 3), 7.0))
    np.testing.assert_array_equal(spectrum, 0)
    assert covariance.directions(spectrum) == 0
    one = covariance.covariance_spectrum(
        np.array([[1.0, 5], [2, 5]]), correlation=True
    )
    np.testing.assert_allclose(one, [1, 0])
    assert condition_number(one) == np.inf


@pytest.mark.parametrize("shape", [(0, 3), (4,)])
def test_nothing_to_measure(shape):
    with pytest.raises(ValueError, match=r"Received: shape=\("):
        covariance.covariance_spectrum(np.ones(shape))
