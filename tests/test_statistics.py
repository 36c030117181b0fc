# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from keras_bn import statistics


def pooled(x, size, pooling):
    pool = statistics.Statistics(0.0, np.zeros(3), np.zeros(3))
    for i in range(0, len(x), size):
        batch = statistics.of_values(x[i : i + size], [0], None)
        batch = statistics.of_batch(batch, pooling)
        pool = statistics.merge(pool, batch, pooling)
    return [np.asarray(value) for value in pool]


@pytest.mark.parametrize("size", [1, 7, 400, 1000])
def test_exact_at_a_mean_of_1e8_whatever_the_batches(size):
    x = np.random.default_rng(0).normal([1e8, -1e8, 0.0], 1.0, (1000, 3))
    count, mean, variance = pooled(x, size, "exact")
    np.testing.assert_array_equal(count, 1000)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(variance, (x - x.mean(0)).var(0), rtol=1e-6)


def test_paper_takes_every_batch_for_one_however_large():
    x = np.random.default_rng(0).normal(3.0, 2.0, (10, 3))
    count, mean, variance = pooled(x, 7, "paper")
    parts = x[:7], x[7:]
    np.testing.assert_array_equal(count, 2)
    np.testing.assert_allclose(mean, np.mean([p.mean(0) for p in parts], 0))
    unbiased = np.mean([p.var(0, ddof=1) for p in parts], 0)
    np.testing.assert_allclose(variance, unbiased)


def test_a_single_value_counts_for_exact_only():
    for pooling, weight in [("exact", 1), ("paper", 0)]:
        count, mean, variance = pooled(np.full((1, 3), 5.0), 1, pooling)
        np.testing.assert_array_equal(count, weight)
        np.testing.assert_array_equal(variance, 0.0)
        np.testing.assert_array_equal(mean, 5.0 * weight)


def test_values_that_a_mask_leaves_out_do_not_count():
    x = np.array([[1.0, 2.0], [3.0, np.nan]])[..., np.newaxis]
    mask = np.array([[True, True], [True, False]])
    batch = statistics.of_values(x, [0, 1], mask)
    found = [float(np.asarray(value)[0]) for value in batch]
    np.testing.assert_allclose(found, [3.0, 2.0, 2.0 / 3.0])
