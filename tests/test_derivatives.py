# SPDX-License-Identifier: Apache-2.0
"""Derivatives beyond one call of `GradientTape.gradient`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bn
from keras_bn import BatchNormalization
from keras_bn.backend import compiling
from tests import layers
from tests.reference import batch_norm, layer as reference

SHAPE = (6, 3)
#: Options of the layer and the mask, each differentiated in its own way.
CASES = {
    "plain": ({}, None),
    "masked": ({}, np.arange(6) % 3 > 0),
    "virtual_batches": ({"virtual_batch_size": 4}, None),
    "renorm": ({"renorm": True}, None),
    "activation": ({"activation": "tanh"}, None),
    "inference": (None, None),
}
cases = pytest.mark.parametrize("case", CASES)


def function_of(case):
    """The layer as a function of its input; its weights stay as they are."""
    options, mask = CASES[case]
    layer = BatchNormalization(dtype="float64", **(options or {}))
    trainable, others = (
        [w.value for w in weights]
        for weights in (
            layers.built(layer, SHAPE).trainable_variables,
            layer.non_trainable_variables,
        )
    )
    training = options is not None

    def run(x):
        call = {"training": training, "mask": mask}
        return layer.stateless_call(trainable, others, x, **call)[0]

    return layer, run


def vjp(function, x, dy):
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(function(x) * dy)
    return tape.gradient(loss, x)


def jvp(function, x, dx):
    with tf.autodiff.ForwardAccumulator(x, dx) as accumulator:
        y = function(x)
    return accumulator.jvp(y)


def jacobian(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.jacobian(y, x)


def penalty(function, x, dy):
    """Squared norm of the gradient, as WGAN-GP and others penalize it."""
    return tf.reduce_sum(vjp(function, x, dy) ** 2)


def inputs():
    return [
        tf.constant(layers.cotangent(SHAPE, seed=seed)) for seed in range(3)
    ]


@pytest.mark.parametrize("mode", layers.MODES)
@cases
def test_forward_mode_is_the_transpose_of_the_backward_pass(case, mode):
    _, function = function_of(case)
    x, dx, dy = inputs()

    def both(x):
        return jvp(function, x, dx), vjp(function, x, dy)

    forward, backward = layers.compiled(both, mode)(x)
    left = float(tf.reduce_sum(forward * dy))
    assert left == pytest.approx(float(tf.reduce_sum(backward * dx)), rel=1e-12)
    assert abs(left) > 1e-3


@cases
def test_jacobian_holds_every_backward_pass(case):
    _, function = function_of(case)
    x, dx, dy = inputs()
    whole = jacobian(function, x)
    pulled = tf.tensordot(dy, whole, 2)
    pushed = tf.tensordot(whole, dx, 2)
    assert layers.relative_error(pulled, vjp(function, x, dy)) < 1e-12
    assert layers.relative_error(pushed, jvp(function, x, dx)) < 1e-12


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize("case", ["plain", "masked", "virtual_batches"])
def test_gradient_penalty_equals_differences_of_the_oracle(case, mode):
    layer, function = function_of(case)
    options, mask = CASES[case]
    x, _, dy = inputs()

    def oracle(x):
        step = reference.step(
            x,
            layer.gamma.numpy(),
            axes=(0,),
            epsilon=layer.epsilon,
            mask=None if mask is None else mask[:, None],
            dy=dy.numpy(),
            **options,
        )
        return (step.dx**2).sum()

    def second_order(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = penalty(function, x, dy)
        return tape.gradient(value, x)

    expected = batch_norm.central_differences(oracle, x.numpy(), 1e-5)
    measured = layers.compiled(second_order, mode)(x)
    assert layers.relative_error(measured, expected) < 1e-7


def test_second_order_is_right_where_that_of_keras_own_layer_is_not():
    """Along a direction, beside differences of the first order."""
    rng = np.random.default_rng(0)
    x, along, weights = rng.normal(size=(3, 4, 4, 4, 3))

    def errors_of(make):
        layer = make(dtype="float64")
        layer.build(x.shape)

        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.nn.relu(layer(x, training=True)) ** 3
            return tape.gradient(y, x)

        def value(x):
            x = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = tf.reduce_sum(weights * tf.sin(gradient(x)))
            return value, tf.reduce_sum(tape.gradient(value, x) * along)

        step = 1e-6 * along
        expected = (value(x + step)[0] - value(x - step)[0]) / 2e-6
        return abs(value(x)[1] / expected - 1)

    assert errors_of(BatchNormalization) < 1e-7
    assert errors_of(keras.layers.BatchNormalization) > 1e-2


@cases
def test_second_order_is_the_same_in_every_combination_of_modes(case):
    """Hessian times vector: reverse over reverse, forward over reverse,
    reverse over forward."""
    _, function = function_of(case)
    x, dx, dy = inputs()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        inner = tf.reduce_sum(vjp(function, x, dy) * dx)
        along = tf.reduce_sum(jvp(function, x, dx) * dy)
    expected = tape.gradient(inner, x, unconnected_gradients="zero")
    for measured in (
        jvp(lambda x: vjp(function, x, dy), x, dx),
        tape.gradient(along, x, unconnected_gradients="zero"),
    ):
        if measured is None:  # Forward mode of what does not depend on x.
            measured = tf.zeros_like(x)
        np.testing.assert_allclose(measured, expected, atol=1e-12)
    assert case == "inference" or np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_reverse_over_forward_mode_is_right_at_any_size(mode):
    """Where XLA would compile, and TensorFlow lose a part of the tangent."""
    x = tf.constant(layers.features((2000, 32)))
    v = tf.constant(layers.cotangent(x.shape))
    layer = layers.built(BatchNormalization(dtype="float64"), x.shape)
    assert compiling.engine(x, (0,)).compiles

    def loss(x):
        return tf.reduce_mean(layer(x, training=True) ** 3)

    def over_forward(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            with tf.autodiff.ForwardAccumulator(x, v) as forward:
                z = loss(x)
            tangent = forward.jvp(z)
        return tape.gradient(tangent, x)

    def over_reverse(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                z = loss(x)
            tangent = tf.reduce_sum(inner.gradient(z, x) * v)
        return outer.gradient(tangent, x)

    first, second = (
        layers.compiled(f, mode)(x) for f in (over_forward, over_reverse)
    )
    assert layers.relative_error(first, second) < layers.FLOAT64


def test_a_model_learns_with_a_gradient_penalty():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, activation="tanh"),
            BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.Adam(0.02)
    x = tf.constant(layers.features((32, 5), dtype="float32"))
    dy = tf.constant(layers.cotangent((32, 1)), tf.float32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = penalty(lambda x: model(x, training=True), x, dy)
        weights = model.trainable_variables
        gradients = tape.gradient(value, weights)
        optimizer.apply_gradients(
            (g, w) for g, w in zip(gradients, weights, strict=True)
            if g is not None
        )  # fmt: skip
        return value

    values = [float(step()) for _ in range(20)]
    assert values[-1] < 0.5 * values[0]


def test_batch_jacobian_and_vectorized_map_at_inference():
    _, function = function_of("inference")
    x, _, _ = inputs()
    whole = jacobian(function, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    for example, block in enumerate(tape.batch_jacobian(y, x)):
        np.testing.assert_array_equal(block, whole[example, :, example])
    mapped = tf.vectorized_map(lambda row: function(row[None])[0], x)
    np.testing.assert_allclose(mapped, function(x), rtol=1e-12)


def test_batch_jacobian_in_training_adds_up_the_targets_of_other_examples():
    """Examples depend on each other; `batch_jacobian` takes for granted that
    they do not. `jacobian` gives the blocks."""
    _, function = function_of("plain")
    x, _, _ = inputs()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    summed = np.einsum("aibj->bij", jacobian(function, x))
    np.testing.assert_allclose(tape.batch_jacobian(y, x), summed, atol=1e-14)


def test_vectorized_map_in_training_normalizes_each_batch_by_itself():
    """The moving averages follow one of the batches, as Keras' do."""
    batches = np.stack([layers.features(SHAPE, mean=m) for m in (0, 5, 9)])
    layer = layers.built(BatchNormalization(dtype="float64"), SHAPE)
    before = layers.statistics(layer)
    mapped = tf.vectorized_map(lambda x: layer(x, training=True), batches)
    steps = [layers.expected_step(layer, x, 0.0) for x in batches]
    for got, want in zip(mapped, steps, strict=True):
        assert layers.relative_error(got, want.y) < layers.FLOAT64
    layers.assert_followed(layer, before, steps[0])


@pytest.mark.parametrize("mode", layers.MODES)
def test_recompute_grad_gives_the_gradients_and_follows_twice(mode):
    """The forward pass runs again in the backward, its updates with it: with
    momentum `p` the averages move as with `p^2`. So do Keras'."""
    layer = layers.built(
        BatchNormalization(momentum=0.5, dtype="float64"), SHAPE
    )
    x, dy = layers.features(SHAPE), layers.cotangent(SHAPE)
    before = layers.statistics(layer)
    expected = layers.expected_step(layer, x, dy)
    recomputed = tf.recompute_grad(lambda x: layer(x, training=True))

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(recomputed(x) * dy)
        return tape.gradient(loss, [x, layer.gamma, layer.beta])

    gradients = layers.compiled(run, mode)(tf.constant(x))
    for got, want in zip(gradients, expected[-3:], strict=True):
        assert layers.relative_error(got, want) < layers.FLOAT64
    layer.momentum = 0.25
    layers.assert_followed(layer, before, expected)


@pytest.mark.parametrize(
    "make", [BatchNormalization, keras.layers.BatchNormalization]
)
def test_a_remat_scope_fails_in_graph_mode_as_keras_own_layer_does(make):
    """TensorFlow's recompute_grad takes no keywords there, Keras passes
    `training=`."""
    with keras.RematScope(mode="full"):
        layer = make()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse")
    x = layers.features(SHAPE, dtype="float32")
    with pytest.raises(ValueError, match="keywords arguments only when eager"):
        model.train_on_batch(x, x)


def test_gradient_accumulation_is_training_with_virtual_batches():
    """Two half batches accumulated: one update, with the mean gradient."""
    x = layers.features((8, 3), dtype="float32")
    target = layers.cotangent((8, 1)).astype(np.float32)

    def trained(optimizer, batch_size, **options):
        keras.utils.set_random_seed(0)
        layer = BatchNormalization(**options)
        dense = keras.layers.Dense(1)
        model = keras.Sequential([keras.Input((3,)), layer, dense])
        model.compile(optimizer, "mse")
        model.fit(
            x, target, batch_size, epochs=3, shuffle=False, verbose=0
        )  # fmt: skip
        return [w.numpy() for w in model.trainable_variables]

    accumulated = trained(
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), 4
    )
    virtual = trained(keras.optimizers.SGD(0.1), 8, virtual_batch_size=4)
    for got, want in zip(accumulated, virtual, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("shape", [(6, 3), (16, 8, 8, 64)])
def test_second_order_through_a_condition(shape, given):
    """TensorFlow differentiates a branch, and its gradient, as functions."""
    rng = np.random.default_rng(0)
    x, v, w = (tf.constant(rng.normal(1, 1, shape)) for _ in range(3))
    axes = tuple(range(len(shape) - 1))
    mean, variance = np.ones(shape[-1]), np.full(shape[-1], 2.0)

    def normalized(x):
        if given:
            return keras_bn.ops.apply_statistics(
                x, mean, variance, axes=axes, activation="sigmoid"
            )
        return keras_bn.ops.batch_norm(x, axes=axes)[0]

    def second(function, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(w * function(x) ** 3)
            first = tf.reduce_sum(v * tape.gradient(loss, x))
        return outer.gradient(first, x)

    @tf.function(
        input_signature=[
            tf.TensorSpec(shape, x.dtype),
            tf.TensorSpec([], tf.bool),
        ]
    )
    def through(x, condition):
        return second(
            lambda x: tf.cond(condition, lambda: normalized(x), lambda: 2 * x),
            x,
        )

    found, expected = through(x, True), second(normalized, x)
    scale = float(tf.reduce_max(tf.abs(expected)))
    np.testing.assert_allclose(found, expected, atol=1e-12 * scale)
