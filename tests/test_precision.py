# SPDX-License-Identifier: Apache-2.0
"""Output error against float64, where others lose every digit."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

import keras_bn
from benchmarks import measure, precision
from tests import layers
from tests.reference import batch_norm as reference

#: Layouts of values per feature: shape and the axes of the values.
LAYOUTS = {
    "rows-1k": ((1024, 4), (0,)),
    "rows-7k": ((7168, 4), (0,)),
    "rows-16k": ((16_384, 4), (0,)),
    "rows-524k": ((524_288, 4), (0,)),
    "maps-16k": ((16, 32, 32, 4), (0, 1, 2)),
    "maps-524k": ((32, 128, 128, 4), (0, 1, 2)),
    "channels_first-524k": ((32, 4, 128, 128), (0, 2, 3)),
    "features_first-524k": ((4, 524_288), (1,)),
    "odd-sizes": ((31, 77, 129, 3), (0, 1, 2)),
}


def exact(x, axes):
    wide = x.astype(np.float64)
    centered = wide - wide.mean(axes, keepdims=True)
    variance = np.square(centered).mean(axes, keepdims=True)
    return centered / np.sqrt(variance + precision.EPSILON)


def normalized(x, axes, mode):
    def normalize(x):
        return keras_bn.ops.batch_norm(x, axes=axes, epsilon=precision.EPSILON)

    any_size = [None if a in axes else n for a, n in enumerate(x.shape)]
    signature = [tf.TensorSpec(any_size)] if mode == precision.UNKNOWN else None
    run = layers.compiled(lambda x: normalize(x)[0], mode, signature)
    return run(tf.constant(x))


@pytest.mark.parametrize("mode", precision.MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_float32_at_a_mean_of_10000(layout, mode):
    """At most 2e-5; Keras' layer: 1e-2 for 16k values, 6 for 524k.

    TensorFlow's sum of many rows, which a graph for any number of a few
    features uses, adds its own rounding, 1e-9 for each row.
    """
    shape, axes = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    x = rng.normal(1e4, 1.0, shape).astype(np.float32)
    y = normalized(x, axes, mode)
    of_sums = mode == precision.UNKNOWN and "rows" in layout
    bound = 1e-9 * len(x) if of_sums else 0.0
    assert np.abs(y - exact(x, axes)).max() <= 2e-5 + bound


@pytest.mark.parametrize("mode", precision.MODES)
@pytest.mark.parametrize("batch", [16, 25, 32])
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 3)])
def test_pixels_unlike_the_others_do_not_make_up_the_sample(axes, batch, mode):
    """Whatever it is that is taken off first, the variance is not lost."""
    x = np.random.default_rng(0).normal(1000, 1.0, (batch, 28, 28, 4))
    x[:, 0, 0] = 0.0
    x = np.moveaxis(x, -1, 1) if axes[1] == 2 else x
    x = x.astype(np.float32)
    expected = exact(x, axes)
    assert np.abs(expected).max() > 25
    y = normalized(x, axes, mode)
    assert np.abs(y - expected).max() <= 5e-5


@pytest.mark.parametrize("mode", precision.MODES)
def test_the_first_rows_do_not_make_up_the_sample(mode):
    x = np.random.default_rng(0).normal(1000, 1.0, (16_384, 8))
    x[:16] = 0.0
    x = x.astype(np.float32)
    y = normalized(x, (0,), mode)
    assert layers.relative_error(y, exact(x, (0,))) <= 2e-5


@pytest.mark.parametrize("mode", precision.MODES)
@pytest.mark.parametrize("dtype", precision.DTYPES)
def test_the_layer_is_as_exact_as_its_dtype(dtype, mode):
    """Whatever the mean; beside the rounding of the output there is no more
    than 1e-5 of float32 arithmetic."""
    for row in precision.rows(
        [120, 300, 1024, 131_072], precision.MEANS, [dtype], [mode]
    ):
        ours, rounding = row["errors"]["ours"], row["errors"]["rounding"]
        assert ours <= 1.01 * rounding + 1e-5, row


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize(
    "shape", [(100, 256), (6, 7, 7, 100), (129, 1024), (200, 1024), (777, 1024)]
)
def test_the_gradient_does_not_depend_on_how_xla_divides(shape, mode):
    """By no power of two: a mean that is rounded otherwise where dx is made
    than where y is made is off by 1e-2 there."""
    layer = keras_bn.BatchNormalization(epsilon=precision.EPSILON)
    layer.build(shape)
    rng = np.random.default_rng(0)
    x = rng.normal(1e5, 1.0, shape).astype(np.float32)
    dy = layers.cotangent(shape).astype(np.float32)
    call = layers.call(layer, x, dy, mode=mode)
    expected = layers.expected_step(
        layer, x.astype(np.float64), dy.astype(np.float64)
    )
    assert layers.relative_error(call.y, expected.y) < 5e-6
    assert layers.relative_error(call.dx, expected.dx) < 5e-6


@pytest.mark.parametrize("values", [[1e4] * 8, [0.0] + [1e4] * 7, range(8)])
def test_plain_operations_are_exact_whatever_the_order(values):
    """For an unknown number of values, sorted and in turns."""
    noise = layers.features((8, 500, 3), axes=(0, 1), dtype="float32")
    x = noise + np.asarray(values, "float32")[:, None, None]
    layer = layers.built(keras_bn.BatchNormalization(), (None, 3))
    with keras_bn.ops.without_compiling():
        run = tf.function(
            lambda x: layer(x, training=True), [tf.TensorSpec([None, 3])]
        )
        for rows in (x.reshape(-1, 3), x.transpose(1, 0, 2).reshape(-1, 3)):
            expected, *_ = reference.forward(
                rows.astype("float64"),
                *layer.get_weights()[:2],
                (0,),
                layer.epsilon,
            )
            assert layers.relative_error(run(rows), expected) < 1e-6


@pytest.mark.parametrize("mean", [1e4, 1e5])
def test_a_gradient_under_xla_of_an_unknown_number_of_examples(mean):
    """Between plain operations, the statistics' cotangents included."""
    x = layers.features((1500, 200), mean=mean, dtype="float32")
    dy = layers.cotangent(x.shape).astype("float32")
    gamma = np.random.default_rng(1).uniform(0.5, 2, 200).astype("float32")

    @tf.function(
        input_signature=[tf.TensorSpec([None, 200])] * 2, jit_compile=True
    )
    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, mean, variance = keras_bn.ops.batch_norm(x, gamma, axes=0)
            loss = tf.reduce_sum(y * dy)
            loss += tf.reduce_sum(2.0 * mean) + tf.reduce_sum(3.0 * variance)
        return tape.gradient(loss, x)

    with keras_bn.ops.without_compiling():
        dx = run(x, dy)
    expected = reference.backward(
        x.astype("float64"), gamma, (0,), 1e-3, dy, 2.0, 3.0
    )
    assert layers.relative_error(dx, expected[0]) < 2e-6


@pytest.mark.parametrize(("rows", "valid"), [(2**16, 10), (2**18, 2**17)])
def test_plain_sums_leave_values_out_at_a_large_mean(rows, valid):
    x = np.random.default_rng(0).normal(1e4, 1.0, (rows, 2)).astype(np.float32)
    mask = np.zeros((rows, 1), bool)
    mask[:: rows // valid][:valid] = True
    run = tf.function(
        lambda x, mask: keras_bn.ops.batch_norm(
            x, axes=0, mask=mask, epsilon=precision.EPSILON
        ),
        input_signature=[
            tf.TensorSpec([None, 2]),
            tf.TensorSpec([None, 1], tf.bool),
        ],
    )
    y, mean, _ = run(x, mask)
    counted = x[mask[:, 0]].astype(np.float64)
    np.testing.assert_allclose(mean, counted.mean(0), rtol=1e-7)
    bound = 2e-5 + 1e-9 * rows
    assert np.abs(y[mask[:, 0]] - exact(counted, (0,))).max() < bound


@pytest.mark.parametrize("odd", [0, 2**15])
def test_a_row_unlike_the_rest_costs_no_digits(odd):
    """Such as padding; in a batch of unknown size."""
    x = np.random.default_rng(0).normal(1e4, 1.0, (2**16, 4))
    x[odd] = 0.0
    x = x.astype(np.float32)
    y = normalized(x, (0,), precision.UNKNOWN)
    error = np.abs(y - exact(x, (0,)))
    assert np.delete(error, odd, 0).max() < 2e-5 + 1e-9 * len(x)


def test_the_oracle_of_the_benchmark_is_exact():
    x = precision.inputs(1024, 1e3, "float32")
    assert precision.error(precision.exact(x), exact(x, (0, 1, 2))) == 0.0
    assert x.shape == (4, 16, 16, 4)
    assert x.mean() == pytest.approx(1e3, abs=0.1)


def test_the_benchmark_prints_a_table_and_writes_json(tmp_path):
    measured = list(precision.rows([100], [0.0, 1e5], ["float16"], ["eager"]))
    assert [row["mean"] for row in measured] == [0.0]  # 1e5 overflows.
    measured[0]["errors"]["keras"] = math.nan
    header, _, line = precision.table(measured).splitlines()
    assert header.startswith("| dtype | values | mean | ours | keras | fused")
    assert line.startswith("| float16 | 100 | 0 | ")
    assert " | not finite | " in line
    measure.write(tmp_path / "precision.json", measured)
    written = json.loads((tmp_path / "precision.json").read_text())
    measured[0]["errors"]["keras"] = None  # JSON has no NaN.
    assert written["results"] == measured
