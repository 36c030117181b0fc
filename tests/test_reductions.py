# SPDX-License-Identifier: Apache-2.0
"""Sums per feature, and the samples that values are centered by."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bn.backend import reductions
from tests import devices, layers


def both(x):
    return x, tf.square(x)


@pytest.mark.parametrize(
    ("rows", "slices"),
    [
        *[(128, []), (129, [4]), (256, [4])],
        *[(257, [8]), (1023, [8]), (1024, [16, 16])],
    ],
)
def test_rows_that_are_folded(rows, slices):
    run = tf.function(lambda x: reductions.folded(both, [x], (0,)))
    x = layers.features((rows, 2), dtype="float32")
    graph = run.get_concrete_function(tf.constant(x)).graph
    sums = [op for op in graph.get_operations() if op.type == "AddN"]
    assert [len(op.inputs) for op in sums] == slices
    for found, values in zip(run(x), both(x.astype("float64")), strict=True):
        np.testing.assert_allclose(found, np.sum(values, 0), rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 64**2, 64**2 + 65])
@pytest.mark.parametrize("axes", [(0,), (0, 2), (1,)])
def test_sums_in_blocks(count, axes):
    shape = [3, 2, 4]
    shape[axes[0]] = count
    x = layers.features(tuple(shape))
    first, second = reductions.in_blocks(both, [tf.constant(x)], axes)
    np.testing.assert_allclose(first, x.sum(axes), rtol=1e-13)
    np.testing.assert_allclose(second, (x**2).sum(axes), rtol=1e-13)


def test_sums_in_blocks_are_exact_where_values_are_many():
    x = np.random.default_rng(0).random((2**20, 4), np.float32)
    run = tf.function(lambda x: reductions.in_blocks(both, [x], (0,)))
    exact = x.astype("float64").sum(0)
    assert layers.relative_error(run(x)[0], exact) < 5e-7


@devices.on_cpu
def test_plain_sums_of_a_cpu_are_less_exact():
    x = np.random.default_rng(0).random((2**20, 4), np.float32)
    exact = x.astype("float64").sum(0)
    assert layers.relative_error(tf.reduce_sum(x, 0), exact) > 2e-6


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2), (0, 2), (1, 3)])
@pytest.mark.parametrize("size", [0, 1, 17, 82, 83, 165, 166, 500])
def test_the_mean_of_a_sparse_sample(size, axes):
    shape = [2, 7, 3, 20]
    shape[axes[0]] = size
    x = layers.features(tuple(shape), axes=axes)
    places = {
        **{n: range(n) for n in (0, 1, 2, 3, 17, 82)},
        **{7: range(1, 7, 2), 20: range(3, 20, 6)},
        **{83: range(2, 83, 5), 165: range(2, 165, 5)},
        **{166: range(5, 166, 10), 500: range(15, 500, 30)},
    }
    taken = x
    for axis in axes:
        taken = taken.take(places[shape[axis]], axis)
    expected = taken.mean(axes) if size else np.zeros_like(taken.sum(axes))
    measured = reductions.mean_of_sparse_sample(
        tf.constant(x), axes, tf.float64
    )
    np.testing.assert_allclose(measured, expected, rtol=1e-13)


def test_edges_do_not_make_up_a_sparse_sample():
    """As a first token or a border may be unlike the rest."""
    x = np.zeros([4, 9, 12, 1])
    x[:, [0, -1]] = x[:, :, [0, -1]] = 1.0
    mean = reductions.mean_of_sparse_sample(
        tf.constant(x), (0, 1, 2), "float64"
    )
    assert mean.numpy() == [0.0]


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2), (1, 3)])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 8])
def test_the_value_in_the_middle(size, axes):
    shape = [2, 6, 3, 5]
    shape[axes[0]] = size
    x = layers.features(tuple(shape), axes=axes)
    expected = x
    for axis in sorted(axes, reverse=True):
        if size:
            expected = expected.take(shape[axis] // 2, axis)
        else:
            expected = expected.sum(axis)
    run = tf.function(
        lambda x: reductions.value_in_the_middle(x, axes, tf.float64),
        input_signature=[tf.TensorSpec([None] * 4, tf.float64)],
    )
    np.testing.assert_array_equal(run(x), expected)
