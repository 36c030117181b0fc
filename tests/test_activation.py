# SPDX-License-Identifier: Apache-2.0
"""Normalization and activation as one operation with one backward pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization, ops
from tests import layers

NAMES = ops.fused_activations()
INVERTIBLE = ops.fused_activations(invertible=True)
SHAPE = (6, 5, 3)


def call(name, x, dy, *, keeps="input", gamma=None, mask=None):
    """Output, dx, dgamma, dbeta, and the second order through dx."""
    if gamma is None:
        gamma = np.array([0.7, -1.3, 2.0])
    gamma, beta = tf.constant(gamma), tf.constant([0.1, -0.2, 0.3], x.dtype)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y, mean, variance = ops.batch_norm(
                x,
                gamma,
                beta,
                axes=(0, 1),
                mask=mask,
                activation=name,
                keeps=keeps,
            )
            loss = tf.reduce_sum(y * dy) + tf.reduce_sum(mean * variance)
        gradients = tape.gradient(loss, [x, gamma, beta])
        penalty = tf.reduce_sum(gradients[0] ** 2)
    return [y, *gradients, outer.gradient(penalty, x)]


def apart(name, x, dy, **options):
    """The same with Keras' activation after the normalization."""
    function = keras.activations.get(name)
    batch_norm = ops.batch_norm

    def two_operations(x, *arguments, **rest):
        rest.pop("activation")
        y, *statistics = batch_norm(x, *arguments, **rest)
        return function(y), *statistics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "batch_norm", two_operations)
        return call(name, x, dy, **options)


def inputs():
    x = tf.constant(layers.features(SHAPE))
    return x, tf.constant(layers.cotangent(SHAPE))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_activation_after_the_normalization(name, masked):
    x, dy = inputs()
    mask = np.arange(30).reshape(6, 5, 1) % 4 > 0 if masked else None
    together = call(name, x, dy, mask=mask)
    for got, want in zip(together, apart(name, x, dy, mask=mask), strict=True):
        # Keras' constants of gelu and leaky_relu go through float32.
        assert layers.relative_error(got, want) < 1e-6


@pytest.mark.parametrize("name", INVERTIBLE)
def test_the_output_is_enough_for_the_backward_pass(name):
    x, dy = inputs()
    from_input = call(name, x, dy)
    from_output = call(name, x, dy, keeps="output")
    for got, want in zip(from_output, from_input, strict=True):
        assert layers.relative_error(got, want) < 1e-9


@pytest.mark.parametrize("name", INVERTIBLE)
def test_gamma_near_zero_is_taken_as_a_thousandth_and_can_leave(name):
    x, dy = inputs()
    near = call(name, x, dy, keeps="output", gamma=np.array([0.0, -1e-9, 1.0]))
    taken = call(name, x, dy, gamma=np.array([1e-3, -1e-3, 1.0]))
    for got, want in zip(near[:4], taken[:4], strict=True):
        assert layers.relative_error(got, want) < 1e-9
    assert np.abs(near[2][:2]).min() > 0


def test_float32_gradients_from_the_output_are_close():
    x, dy = (tf.cast(t, tf.float32) for t in inputs())
    gamma = np.array([0.01, -1.3, 2.0], np.float32)
    from_input = call("leaky_relu", x, dy, gamma=gamma)
    from_output = call("leaky_relu", x, dy, gamma=gamma, keeps="output")
    for got, want in zip(from_output[:4], from_input[:4], strict=True):
        assert layers.relative_error(got, want) < 1e-4


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("dtype", "largest_error"),
    [
        ("float64", 1e-9),
        ("float32", 1e-5),
        ("float16", 0.02),
        ("bfloat16", 0.1),
    ],
)
def test_gradients_are_finite_where_the_output_is_rounded_to_its_infimum(
    dtype, largest_error, compiled
):
    x = np.zeros((2000, 1))
    x[0] = -40.0  # z = -45: elu(z) rounds to -1 in every dtype.
    x[1:] += np.linspace(0.5, -0.5, 1999)[:, None]
    dy = tf.constant(layers.cotangent(x.shape), dtype)

    @tf.function(autograph=False, jit_compile=compiled)
    def gradients(keeps):
        gamma, beta = tf.ones(1, dy.dtype), tf.zeros(1, dy.dtype)
        values = tf.constant(x, dtype)
        with tf.GradientTape() as tape:
            tape.watch([values, gamma, beta])
            y, *_ = ops.batch_norm(
                values, gamma, beta, axes=(0,), activation="elu", keeps=keeps
            )
        return y, tape.gradient(y, [values, gamma, beta], dy)

    y, from_output = gradients("output")
    _, from_input = gradients("input")
    assert y[0] == -1.0
    for got, want in zip(from_output, from_input, strict=True):
        assert np.isfinite(got).all()
        # The one value that cannot be told from its neighbours apart.
        got, want = (np.asarray(t, np.float64) for t in (got, want))
        error = np.abs(got - want)[1:] if len(got) > 1 else np.abs(got - want)
        assert error.max() <= largest_error * np.abs(want).max()


@pytest.mark.parametrize("keeps", ["input", "output"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", [None, "leaky_relu"])
def test_layer_applies_it_in_training_and_at_inference(
    activation, training, keeps
):
    x, _ = inputs()
    layer = BatchNormalization(
        activation=activation, keeps=keeps, dtype="float64"
    )
    plain = BatchNormalization(dtype="float64")
    layers.built(layer, SHAPE)
    layers.built(plain, SHAPE)
    expected = keras.activations.get(activation)(plain(x, training=training))
    np.testing.assert_allclose(layer(x, training=training), expected, 1e-6)


def test_activations_with_other_arguments_are_applied_afterwards():
    x, _ = inputs()
    activation = keras.layers.LeakyReLU(0.5)
    layer = layers.built(BatchNormalization(activation=activation), SHAPE)
    plain = layers.built(BatchNormalization(), SHAPE)
    x = tf.cast(x, tf.float32)
    np.testing.assert_allclose(
        layer(x, training=True), activation(plain(x, training=True)), 1e-6
    )


@pytest.mark.parametrize("activation", ["relu", "tanh", keras.layers.ReLU()])
def test_an_activation_without_inverse_cannot_keep_the_output_only(activation):
    with pytest.raises(ValueError, match="linear, leaky_relu, elu"):
        BatchNormalization(activation=activation, keeps="output")
    with pytest.raises(ValueError, match="keeps must be one of"):
        BatchNormalization(keeps="both")
