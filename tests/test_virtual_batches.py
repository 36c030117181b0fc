# SPDX-License-Identifier: Apache-2.0
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization
from tests import layers

#: shape, axis, virtual batch size
CASES = {
    "even": ((8, 3), -1, 4),
    "uneven_last": ((7, 3), -1, 3),
    "last_of_one": ((7, 3), -1, 2),
    "larger_than_the_batch": ((5, 3), -1, 9),
    "as_large_as_the_batch": ((5, 3), -1, 5),
    "sequences": ((5, 4, 3), -1, 2),
    "channels_first": ((5, 3, 2, 4), 1, 2),
    "per_activation": ((6, 2, 2, 3), (1, 2, 3), 4),
    "of_one_example": ((4, 2, 2, 3), -1, 1),
}


def ghost(size, shape, axis=-1, **options):
    options = {"dtype": "float64", **options}
    layer = BatchNormalization(axis, virtual_batch_size=size, **options)
    return layers.built(layer, (None, *shape[1:]))


def assert_step_equals_oracle(layer, x, *, mask=None, **options):
    dy, before = layers.cotangent(x.shape), layers.statistics(layer)
    full = None if mask is None else mask[..., None]
    expected = layers.expected_step(layer, x, dy, mask=full)
    measured = layers.call(layer, x, dy, mask=mask, **options)
    layers.assert_equals_oracle(measured, expected)
    layers.assert_followed(layer, before, expected)


@pytest.mark.filterwarnings("ignore:.*single value per:UserWarning")
@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize("case", CASES)
def test_each_virtual_batch_is_normalized_by_itself(case, mode):
    shape, axis, size = CASES[case]
    layer = ghost(size, shape, axis)
    axes = layers.reduced_axes(layer, len(shape))
    assert_step_equals_oracle(
        layer, layers.features(shape, axes=axes), mode=mode
    )


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("examples", [4, 6, 7])
def test_the_batch_size_may_be_unknown(examples, mode):
    layer = ghost(3, (None, 2, 3))
    signature = [tf.TensorSpec([None, 2, 3], tf.float64)]
    x = layers.features((examples, 2, 3))
    assert_step_equals_oracle(layer, x, mode=mode, signature=signature)


@pytest.mark.parametrize("examples", [6, 7])
@pytest.mark.parametrize("steps", ["own", "alike", "one"])
def test_masked_values_do_not_count(examples, steps):
    """The mask is per example and step, for all examples, for all steps."""
    shape = {"own": (examples, 5), "alike": (1, 5), "one": (examples, 1)}
    mask = np.random.default_rng(1).random(shape[steps]) < 0.6
    mask[:, 0] = True
    layer = ghost(3, (examples, 5, 3))
    x = layers.features((examples, 5, 3))
    assert_step_equals_oracle(layer, x, mask=mask)


def test_a_virtual_batch_that_is_masked_out_has_no_weight():
    mask = np.array([True] * 3 + [False] * 3 + [True] * 2)
    layer, x = ghost(3, (8, 3)), layers.features((8, 3))
    assert_step_equals_oracle(layer, x, mask=mask)


@pytest.mark.filterwarnings("ignore:.*single value per:UserWarning")
@pytest.mark.parametrize("size", [3, 4])
def test_the_unbiased_estimator_corrects_each_virtual_batch(size):
    layer = ghost(size, (10, 3), moving_variance_estimator="unbiased")
    assert_step_equals_oracle(layer, layers.features((10, 3)))


def test_equal_batches_have_the_statistics_of_one():
    """Pooled over three equal virtual batches of two: those of the two."""
    layer = ghost(2, (6, 3), momentum=0.0)
    x = np.tile(layers.features((2, 3)), (3, 1))
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, x[:2].mean(0), rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, x[:2].var(0), rtol=1e-12)


def test_inference_normalizes_the_whole_batch_with_the_moving_averages():
    layer, x = ghost(3, (7, 3)), layers.features((7, 3))
    plain = BatchNormalization(dtype="float64")
    plain.build((None, 3))
    plain.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), plain(x))


def test_fit_with_a_last_batch_of_another_size():
    keras.utils.set_random_seed(0)
    layer = BatchNormalization(virtual_batch_size=16)
    model = keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = layers.features((96, 5), mean=100, dtype="float32")
    y = (x - x.mean(0)).sum(1)
    losses = model.fit(x, y, batch_size=40, epochs=20, verbose=0)
    assert losses.history["loss"][-1] < 0.2 * losses.history["loss"][0]
    assert model.predict(x, verbose=0).shape == (96, 1)


def test_the_batch_axis_cannot_be_a_feature_axis():
    layer = BatchNormalization(axis=0, virtual_batch_size=2)
    with pytest.raises(ValueError, match=r"batch, axis 0, .* axis=0"):
        layer.build((4, 3))
