# SPDX-License-Identifier: Apache-2.0
"""Batches that could corrupt a layer, and arguments that make no sense."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization
from tests import layers
from tests.reference import layer as reference

OPTIONS = {
    "plain": {},
    "synchronized": {"synchronized": True},
    "unbiased": {"moving_variance_estimator": "unbiased"},
    "cumulative": {"moving_average": "cumulative"},
    "virtual_batches": {"virtual_batch_size": 2},
    "renorm": {"renorm": True},
}
#: Every option eagerly, the plain layer in every mode.
RUNS = [
    *((name, "eager") for name in OPTIONS),
    ("plain", "graph"),
    ("plain", "xla"),
]
runs = pytest.mark.parametrize(("option", "mode"), RUNS)


def layer_with(option, shape, **more):
    return layers.built(BatchNormalization(**OPTIONS[option], **more), shape)


def assert_unchanged(layer, before, where=...):
    for name, value in layers.statistics(layer).items():
        np.testing.assert_array_equal(value[where], before[name][where], name)


@runs
@pytest.mark.parametrize(
    "shape", [(0, 3), (0, 4, 5, 3), (6, 0, 5, 3), (6, 0, 3), (0, 0, 3)]
)
def test_a_batch_without_values_changes_nothing(shape, option, mode):
    layer = layer_with(option, (None, *shape[1:]))
    before = layers.statistics(layer)
    x = np.empty(shape, np.float32)
    measured = layers.call(layer, x, np.empty(shape), mode=mode)
    assert measured.y.shape == measured.dx.shape == shape
    np.testing.assert_array_equal(measured.dgamma, np.zeros(3))
    np.testing.assert_array_equal(measured.dbeta, np.zeros(3))
    assert_unchanged(layer, before)


@pytest.mark.parametrize("mode", layers.MODES)
def test_nothing_has_no_gradient_where_epsilon_is_0(mode):
    layer = layers.built(BatchNormalization(epsilon=0.0), (None, 3))
    x = np.empty((0, 3), np.float32)
    measured = layers.call(layer, x, np.empty((0, 3)), mode=mode)
    np.testing.assert_array_equal(measured.dgamma, np.zeros(3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", layers.MODES)
def test_rows_may_be_taken_of_the_output(mode, training):
    """Whose gradient is those rows only."""
    layer = layers.built(BatchNormalization(dtype="float64"), (None, 3))
    x = layers.features((6, 3))
    rows = np.array([4, 0, 0])
    dy = np.zeros((6, 3))
    np.add.at(dy, rows, layers.cotangent((3, 3)))

    def gradients(x, take):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(take(y))
        return tape.gradient(loss, [x, layer.gamma])

    of_rows, of_all = (
        layers.compiled(lambda x, take=take: gradients(x, take), mode)(
            tf.constant(x)
        )
        for take in (
            lambda y: tf.gather(y, rows) * layers.cotangent((3, 3)),
            lambda y: y * dy,
        )
    )
    for one, other in zip(of_rows, of_all, strict=True):
        assert layers.relative_error(one, other) < layers.FLOAT64


def test_one_example_unlike_the_rest_spoils_no_batch_of_unknown_size():
    """Be it the one that all others are centered by."""
    x = layers.features((2**16, 4), dtype="float32")
    x[2**15] = 1e6
    layer = layers.built(BatchNormalization(), (None, 4))
    expected = layers.expected_step(layer, x.astype(np.float64), 0.0)
    signature = [tf.TensorSpec([None, 4])]
    measured = layers.call(
        layer, x, np.zeros(4), mode="graph", signature=signature
    )
    error = np.abs(measured.y - expected.y)
    assert np.delete(error, 2**15, 0).max() < 2e-5
    assert error[2**15].max() < 1e-5 * np.abs(expected.y).max()


@runs
def test_a_fully_masked_batch_changes_nothing(option, mode):
    layer = layer_with(option, (None, 4, 3))
    before = layers.statistics(layer)
    x = layers.features((6, 4, 3), dtype="float32")
    measured = layers.call(
        layer, x, np.zeros(x.shape), mask=np.zeros((6, 4), bool), mode=mode
    )
    assert all(np.isfinite(part).all() for part in measured)
    assert_unchanged(layer, before)


@runs
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_one_bad_feature_leaves_the_others_as_they_are(bad, option, mode):
    """In outputs, statistics and gradients; its own statistics stay put."""
    x = layers.features((6, 3), dtype="float32")
    dy = layers.cotangent(x.shape)
    layer, twin = (layer_with(option, x.shape) for _ in range(2))
    before = layers.statistics(layer)
    expected = layers.call(twin, x, dy, mode=mode)
    x[2, 1] = bad
    measured = layers.call(layer, x, dy, mode=mode)
    others = np.array([True, False, True])
    for got, want in zip(measured, expected, strict=True):
        got, want = got.numpy()[..., others], want.numpy()[..., others]
        np.testing.assert_allclose(got, want, rtol=1e-6)
    for name, want in layers.statistics(twin).items():
        got = layers.statistics(layer)[name][others]
        np.testing.assert_allclose(got, want[others], rtol=1e-6)
    for name, value in before.items():
        now = layers.statistics(layer)[name]
        np.testing.assert_array_equal(now[1], value[1], name)
    assert all(np.isfinite(w).all() for w in layer.weights)


@pytest.mark.parametrize("mode", layers.MODES)
def test_a_model_outlives_a_bad_batch(mode):
    """Train on good, bad, good: predictions are those without the bad one."""
    good = [layers.features((8, 3), seed=s, dtype="float32") for s in range(4)]
    bad = [
        np.full((8, 3), np.nan, np.float32),
        np.full((8, 3), np.inf, np.float32),
        np.full((8, 3), 3e38, np.float32),
        np.empty((0, 3), np.float32),
    ]
    layer, twin = (layers.built(BatchNormalization(), (None, 3)) for _ in "ab")
    for each, batches in (
        (twin, good),
        (layer, [b for pair in zip(good, bad, strict=True) for b in pair]),
    ):
        step = layers.compiled(
            lambda x, each=each: each(x, training=True), mode
        )
        for x in batches:
            step(tf.constant(x))
    np.testing.assert_allclose(layer(good[0]), twin(good[0]), rtol=1e-6)


@runs
@pytest.mark.parametrize("value", [0.0, 3.0, 1e4, -1e18])
def test_zero_variance_gives_beta_and_finite_gradients(value, option, mode):
    layer = layer_with(option, (None, 3))
    if option == "renorm":
        layer.renorm_mean.assign([value] * 3)
    x = np.full((6, 3), value, np.float32)
    measured = layers.call(layer, x, layers.cotangent(x.shape), mode=mode)
    np.testing.assert_allclose(
        measured.y, np.tile(layer.beta, (6, 1)), rtol=1e-5
    )
    assert all(np.isfinite(part).all() for part in measured)
    assert all(np.isfinite(w).all() for w in layer.weights)
    if option == "plain":
        _, _, _, old = layers.built(BatchNormalization(), (None, 3)).weights
        np.testing.assert_allclose(
            layer.moving_variance, 0.99 * old.numpy(), rtol=1e-6
        )


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize("scale", [1e12, 1e15, 1e18])
def test_large_values_are_exact_while_the_sum_of_squares_is_a_number(
    scale, mode
):
    x = layers.features((64, 3), dtype="float32") * np.float32(scale)
    layer = layers.built(BatchNormalization(), x.shape)
    expected = layers.expected_step(layer, x, 0.0)
    y = layers.call(layer, x, np.zeros(x.shape), mode=mode).y
    assert layers.relative_error(y, expected.y) < 1e-5


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"]
)
@pytest.mark.parametrize("scale", [1.0, 6e4])
def test_narrow_policies_have_float32_statistics(scale, dtype, mode):
    """At 6e4 a square or a sum of two overflows float16."""
    narrow = dtype.removeprefix("mixed_")
    rng = np.random.default_rng(0)
    x = (rng.uniform(0.1, 1, (64, 3)) * scale).astype(np.float32)
    x = keras.ops.convert_to_numpy(keras.ops.cast(x, narrow))
    layer = layers.built(BatchNormalization(dtype=dtype), x.shape)
    before = layers.statistics(layer)
    dy = layers.cotangent(x.shape)
    exact = layers.expected_step(
        layer, x.astype(np.float64), dy.astype(x.dtype).astype(np.float64)
    )
    measured = layers.call(layer, x, dy, mode=mode)
    assert measured.y.dtype == narrow
    weights = "float32" if dtype.startswith("mixed") else narrow
    assert layer.gamma.dtype == layer.beta.dtype == weights
    assert layer.moving_mean.dtype == layer.moving_variance.dtype == "float32"
    layers.assert_followed(layer, before, exact, tolerance=1e-5)
    rounding = {"float16": 2e-3, "bfloat16": 1.6e-2}[narrow]
    for got, want in ((measured.y, exact.y), (measured.dx, exact.dx)):
        got = keras.ops.cast(got, "float64")
        assert layers.relative_error(got, want) < rounding


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_every_size_but_the_features_may_be_unknown(mode):
    layer = layers.built(
        BatchNormalization(dtype="float64"), (None,) * 3 + (3,)
    )
    signature = [tf.TensorSpec([None, None, None, 3], tf.float64)]
    for shape in ((4, 2, 5, 3), (2, 6, 1, 3)):
        x, dy = layers.features(shape), layers.cotangent(shape)
        expected = layers.expected_step(layer, x, dy)
        measured = layers.call(layer, x, dy, mode=mode, signature=signature)
        layers.assert_equals_oracle(measured, expected)


def test_a_model_of_unknown_sizes_trains_on_images_of_any():
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.GlobalAveragePooling2D()(
        BatchNormalization()(inputs)
    )
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    for size in (4, 7):
        x = layers.features((5, size, size + 1, 3), dtype="float32")
        assert np.isfinite(model.train_on_batch(x, np.ones((5, 3))))
        assert model.predict(x, verbose=0).shape == (5, 3)


def test_a_channel_axis_of_unknown_size_elsewhere_is_fine():
    layer = BatchNormalization(axis=1, dtype="float64")
    layer.build((None, 3, None))
    x = layers.features((4, 3, 5), axes=(0, 2))
    y = layer(x, training=True)
    want = reference.step(x, axes=(0, 2), epsilon=1e-3).y
    assert layers.relative_error(y, want) < layers.FLOAT64


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
@pytest.mark.parametrize("training", [True, False])
def test_integer_input_is_refused(dtype, training):
    x = np.ones((4, 3), dtype)
    with pytest.raises(ValueError, match=f"Received: dtype={dtype}"):
        BatchNormalization()(x, training=training)
    with pytest.raises(ValueError, match=f"Received: dtype={dtype}"):
        BatchNormalization()(keras.Input((3,), dtype=dtype), training=training)


def test_a_class_derived_from_the_layer_may_take_what_it_likes():
    class Conditional(BatchNormalization):
        def build(self, x_shape, condition_shape):
            del condition_shape
            super().build(x_shape)

        def call(self, x, condition):
            return super().call(keras.ops.cast(x, "float32")) * condition

    image, condition = keras.Input((3,), dtype="uint8"), keras.Input((3,))
    outputs = Conditional()(image, condition)
    assert outputs.shape == (None, 3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [None, 2])
def test_ragged_input_is_refused_and_does_as_the_message_says(size, training):
    layer = BatchNormalization(virtual_batch_size=size)
    rows = np.random.default_rng(0).normal(3, 2, (9, 3)).astype(np.float32)
    x = tf.RaggedTensor.from_row_lengths(rows, [4, 3, 2])
    with pytest.raises(ValueError, match=r"x\.to_tensor\(\).*\(3, None, 3\)"):
        layer(x, training=training)
    mask = tf.sequence_mask(x.row_lengths())
    y = layer(x.to_tensor(), mask=mask, training=training)
    if size is None and training:
        np.testing.assert_allclose(
            tf.boolean_mask(y, mask),
            (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-3),
            rtol=1e-5,
        )


BAD_AXES = [
    (4, (None, 4, 4, 5), r"\[-4, 3\] .* rank 4. Received: axis=4"),
    (-5, (None, 4, 4, 5), r"\[-4, 3\] .* rank 4. Received: axis=-5"),
    (1, (None,), r"\[-1, 0\] .* rank 1. Received: axis=1"),
    ((1, 7), (None, 4, 5), r"\[-3, 2\] .* Received: axis=\(1, 7\)"),
    ((1, -3), (None, 4, 4, 5), r"different axes. Received: axis=\(1, -3\)"),
    ((), (None, 5), r"at least one axis"),
    ((0, 1), (8, 5), r"at least one axis to take statistics over"),
    (-1, (None, None), r"defined size. Received: axis=-1, .*\(None, None\)"),
    ((1, 2), (None, None, 5), r"defined size. Received: axis=\(1, 2\)"),
]


@pytest.mark.parametrize(("axis", "shape", "message"), BAD_AXES)
def test_bad_axes_are_refused(axis, shape, message):
    with pytest.raises(ValueError, match=message):
        BatchNormalization(axis=axis).build(shape)
    with pytest.raises(ValueError, match=message):
        BatchNormalization(axis=axis)(
            keras.Input(batch_shape=shape, dtype="float32")
        )


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 3)])
def test_an_input_of_another_shape_than_built_for_is_refused(shape):
    layer = layers.built(BatchNormalization(), (None, 3))
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(np.ones(shape, np.float32))


@pytest.mark.parametrize("shape", [(None, None, None, 3), (None, 32, 32, 3)])
@pytest.mark.parametrize("trainable", [True, False])
def test_a_cotangent_may_have_lost_its_shape(shape, trainable):
    layer = layers.built(BatchNormalization(trainable=trainable), shape)

    @tf.custom_gradient
    def through_numpy(y):
        def gradient(dy):
            return tf.numpy_function(lambda dy: dy, [dy], tf.float32)

        return tf.identity(y), gradient

    def gradient(x, wrap):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(wrap(layer(x, training=True)) ** 3)
        return tape.gradient(loss, x)

    x = tf.constant(layers.features((2, 32, 32, 3), dtype="float32"))
    run = tf.function(
        lambda x: gradient(x, through_numpy),
        input_signature=[tf.TensorSpec(shape)],
    )
    expected = gradient(x, tf.identity)
    assert layers.relative_error(run(x), expected) < 1e-4


def test_not_even_the_number_of_features_need_be_known():
    layer = layers.built(BatchNormalization(), (None, None, None, 3))
    x = layers.features((4, 8, 8, 3), dtype="float32")
    run = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec([None] * 4)],
    )
    expected = layer(x, training=True)
    assert layers.relative_error(run(x), expected) < 1e-5
