# SPDX-License-Identifier: Apache-2.0
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization
from tests import layers
from tests.reference import batch_norm, layer as reference

#: shape of the input, shape of the mask, axis
CASES = {
    "examples": ((7, 3), (7,), -1),
    "steps": ((4, 5, 3), (4, 5), -1),
    "steps_one_per_example": ((4, 5, 3), (4, 1), -1),
    "steps_alike_in_all_examples": ((4, 5, 3), (1, 5), -1),
    "pixels": ((3, 4, 2, 3), (3, 4, 2), -1),
    "rows_of_pixels": ((3, 4, 2, 3), (1, 4, 1), -1),
    "channels_first": ((4, 3, 2, 5), (4, 3, 2), 1),
    "channels_first_alike": ((4, 3, 2, 5), (4, 1, 2), 1),
    "per_activation": ((5, 2, 3, 2), (5, 2, 3), (1, 2, 3)),
    "two_feature_axes": ((4, 2, 3, 2), (4, 2, 3), (1, 3)),
    "volumes": ((2, 3, 2, 2, 3), (2, 3, 1, 2), -1),
}


def mask_of(shape, seed=2):
    mask = np.random.default_rng(seed).random(shape) < 0.6
    mask.flat[0], mask.flat[-1] = True, False
    return mask


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize("case", CASES)
def test_masked_values_are_normalized_but_do_not_count(case, mode):
    shape, mask_shape, axis = CASES[case]
    layer = layers.built(BatchNormalization(axis, dtype="float64"), shape)
    x = layers.features(shape, axes=layers.reduced_axes(layer, len(shape)))
    dy, mask = layers.cotangent(shape), mask_of(mask_shape)
    before = layers.statistics(layer)
    expected = layers.expected_step(layer, x, dy, mask=mask[..., None])
    measured = layers.call(layer, x, dy, mask=mask, mode=mode)
    layers.assert_equals_oracle(measured, expected)
    for name in ("mean", "variance"):
        followed = getattr(layer, f"moving_{name}")
        enough = expected.count >= (2 if name == "variance" else 1)
        then = before[f"moving_{name}"]
        moved = 0.99 * then + 0.01 * getattr(expected, name)
        want = np.where(enough, moved, then)
        assert layers.relative_error(followed, want) < layers.FLOAT64


def test_the_oracle_itself_equals_central_differences():
    x, mask = layers.features((5, 2)), mask_of((5, 1))
    gamma, beta, dy = np.array([0.5, 2.0]), np.ones(2), layers.cotangent((5, 2))

    def step(x, gamma=gamma, beta=beta):
        return reference.step(
            x, gamma, beta, axes=(0,), epsilon=0.1, mask=mask, dy=dy
        )

    expected = step(x)
    for measured, function, at in (
        (expected.dx, lambda x: step(x), x),
        (expected.dgamma, lambda gamma: step(x, gamma), gamma),
        (expected.dbeta, lambda beta: step(x, gamma, beta), beta),
    ):
        differences = batch_norm.central_differences(
            lambda value, function=function: (function(value).y * dy).sum(),
            at,
            1e-5,
        )
        assert layers.relative_error(measured, differences) < 1e-7


def test_a_full_mask_changes_nothing():
    x, dy = layers.features((4, 5, 3)), layers.cotangent((4, 5, 3))
    with_mask, without = (
        layers.built(BatchNormalization(dtype="float64"), x.shape)
        for _ in range(2)
    )
    mask = np.ones((4, 5), bool)
    measured = layers.call(with_mask, x, dy, mask=mask)
    layers.assert_equals_oracle(measured, layers.call(without, x, dy))
    for name, value in layers.statistics(without).items():
        now = layers.statistics(with_mask)[name]
        np.testing.assert_allclose(now, value, rtol=1e-14)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_what_is_masked_out_may_be_anything(junk):
    """Padding that is not finite reaches neither others nor statistics."""
    x = layers.features((6, 3))
    mask = np.array([True, True, False, True, False, True])
    layer = layers.built(BatchNormalization(dtype="float64"), x.shape)
    expected = layers.expected_step(layer, x[mask], 0.0)
    before = layers.statistics(layer)
    x[~mask] = junk
    y = layer(x, training=True, mask=mask).numpy()[mask]
    assert layers.relative_error(y, expected.y) < layers.FLOAT64
    layers.assert_followed(layer, before, expected)


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "silu"},
        {"activation": "leaky_relu", "keeps": "output"},
    ],
)
@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_what_is_masked_out_has_no_part_in_gradients(junk, options, mode):
    x = layers.features((6, 3))
    mask = np.array([True, True, False, True, False, True])
    dy = np.where(mask[:, None], layers.cotangent(x.shape), 0.0)
    results = []
    for padding in (1.0, junk):
        x[~mask] = padding
        layer = layers.built(
            BatchNormalization(dtype="float64", **options), x.shape
        )

        def run(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True, mask=mask)
            return tape.gradient(y, [x, layer.gamma, layer.beta], dy)

        results.append(layers.compiled(run, mode)(tf.constant(x)))
    for ordinary, gradient in zip(*results, strict=True):
        assert layers.relative_error(gradient, ordinary) < layers.FLOAT64


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
def test_the_mask_may_have_any_dtype(dtype):
    x, mask = layers.features((7, 3)), mask_of((7,))
    layer = layers.built(BatchNormalization(dtype="float64"), x.shape)
    expected = layers.expected_step(layer, x, 0.0, mask=mask[:, None])
    y = layer(x, training=True, mask=tf.cast(mask, dtype))
    assert layers.relative_error(y, expected.y) < layers.FLOAT64


def test_inference_does_not_look_at_the_mask():
    x = layers.features((7, 3))
    layer = layers.built(BatchNormalization(), x.shape)
    masked = layer(x, training=False, mask=mask_of((7,)))
    np.testing.assert_array_equal(masked, layer(x, training=False))


def test_a_model_hands_its_mask_to_the_layer_and_on():
    """Sequences padded to 9 steps leave the statistics they leave unpadded."""
    rng = np.random.default_rng(0)
    sequences = rng.normal(3, 2, (8, 6, 2)).astype(np.float32)
    padded = np.pad(sequences, [(0, 0), (0, 3), (0, 0)])
    layer = BatchNormalization(momentum=0.0)
    inputs = keras.Input((None, 2))
    outputs = layer(keras.layers.Masking(0.0)(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(padded, padded, batch_size=8, verbose=0)
    flat = sequences.reshape(-1, 2)
    np.testing.assert_allclose(layer.moving_mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, flat.var(0), rtol=1e-5)
    mask = np.ones((8, 9), bool)
    assert layer.compute_mask(padded, mask) is mask


def test_inference_takes_a_mask_of_unknown_rank():
    x = layers.features((6, 5, 3))
    layer = layers.built(BatchNormalization(dtype="float64"), x.shape)
    run = tf.function(
        lambda x, mask: layer(x, mask=mask),
        input_signature=[
            tf.TensorSpec((None, 5, 3), tf.float64),
            tf.TensorSpec(None, tf.bool),
        ],
    )
    mask = np.ones((6, 5), bool)
    np.testing.assert_allclose(run(x, mask), layer(x), rtol=1e-12)


@pytest.mark.parametrize(
    ("mask_shape", "message"),
    [
        ((6, 5, 3), r"one axis less .* mask.shape=\(6, 5, 3\)"),
        ((6,), r"one axis less .* mask.shape=\(6,\)"),
        ((6, 4), r"broadcast .* mask.shape=\(6, 4\)"),
        ((5, 5), r"broadcast .* mask.shape=\(5, 5\)"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_mask_of_another_shape_is_refused(training, mask_shape, message):
    with pytest.raises(ValueError, match=message):
        BatchNormalization()(
            layers.features((6, 5, 3)),
            training=training,
            mask=np.ones(mask_shape, bool),
        )
