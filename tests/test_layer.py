# SPDX-License-Identifier: Apache-2.0
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization
from tests.reference import batch_norm as reference


def features(shape=(32, 5), *, mean=3.0, seed=0):
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 2, shape[-1])
    return (rng.normal(size=shape) * spread + mean).astype(np.float32)


def built(layer, shape=(None, 5), seed=1):
    """Builds a layer and gives it weights that no default has."""
    layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.weights])
    return layer


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((32, 5), -1),
        ((8, 6, 5), -1),
        ((8, 5, 6), 1),
        ((4, 3, 6, 5), -1),
        ((4, 5, 3, 6), 1),
        ((4, 3, 2, 6, 5), -1),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_equals_keras(shape, axis, training):
    x = features(shape)
    # A copy of Keras' layer is the oracle; weights are shared by name.
    theirs = keras.layers.BatchNormalization(axis=axis)
    ours = BatchNormalization(axis=axis)
    for layer in (theirs, ours):
        built(layer, shape)
    np.testing.assert_allclose(
        ours(x, training=training), theirs(x, training=training), atol=2e-5
    )
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert mine.path.split("/")[-1] == other.path.split("/")[-1]
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_training_follows_the_batch_with_biased_variance():
    x = features()
    layer = BatchNormalization(momentum=0.75)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.25 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance, 0.75 + 0.25 * x.var(0), rtol=1e-5
    )


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_at_its_ends(momentum):
    x = features()
    layer = BatchNormalization(momentum=momentum)
    layer(x, training=True)
    expected = x.mean(0) if momentum == 0 else np.zeros(5)
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-5)


def test_inference_uses_and_keeps_the_moving_averages():
    x = features()
    layer = built(BatchNormalization())
    before = layer.get_weights()
    gamma, beta, mean, variance = before
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(layer(x, training=False), expected, rtol=1e-5)
    for now, then in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_frozen_layer_runs_in_inference_mode_as_in_keras():
    x = features()
    layer = built(BatchNormalization())
    inference = layer(x, training=False)
    before = layer.get_weights()
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), inference)
    assert layer.trainable_weights == []
    assert len(layer.non_trainable_weights) == 4
    for now, then in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_several_axes_normalize_each_activation_by_itself():
    x = features((16, 4, 3, 5))
    layer = BatchNormalization(axis=(1, 2, 3), epsilon=1e-5)
    y = layer(x, training=True)
    assert layer.gamma.shape == (4, 3, 5)
    expected, _, _ = reference.forward(x, 1.0, 0.0, (0,), 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("center", "scale", "names"),
    [
        (True, True, ["gamma", "beta"]),
        (False, True, ["gamma"]),
        (True, False, ["beta"]),
        (False, False, []),
    ],
)
def test_center_and_scale(center, scale, names):
    x = features()
    layer = BatchNormalization(center=center, scale=scale)
    y = layer(x, training=True)
    assert [w.name for w in layer.trainable_weights] == names
    expected, _, _ = reference.forward(x, 1.0, 0.0, (0,), 1e-3)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_initializers_regularizers_and_constraints_reach_the_weights():
    layer = BatchNormalization(
        beta_initializer=keras.initializers.Constant(2.0),
        gamma_initializer=keras.initializers.Constant(3.0),
        moving_mean_initializer=keras.initializers.Constant(4.0),
        moving_variance_initializer=keras.initializers.Constant(5.0),
        beta_regularizer=keras.regularizers.L2(0.5),
        gamma_regularizer=keras.regularizers.L1(0.1),
        beta_constraint=keras.constraints.NonNeg(),
        gamma_constraint=keras.constraints.MaxNorm(1.0),
    )
    layer.build((None, 5))
    for weight, value in zip(layer.weights, (3, 2, 4, 5), strict=True):
        np.testing.assert_array_equal(weight, np.full(5, value))
    assert sum(float(loss) for loss in layer.losses) == pytest.approx(
        0.5 * 5 * 2**2 + 0.1 * 5 * 3, rel=1e-6
    )
    assert isinstance(layer.beta.constraint, keras.constraints.NonNeg)
    assert isinstance(layer.gamma.constraint, keras.constraints.MaxNorm)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("training", [True, False])
def test_mixed_precision_keeps_weights_and_statistics_float32(dtype, training):
    x = features(mean=300.0)
    layer = BatchNormalization(dtype=dtype, momentum=0.0)
    y = layer(x, training=training)
    assert keras.backend.standardize_dtype(y.dtype) == dtype[6:]
    assert {w.dtype for w in layer.weights} == {"float32"}
    if training:
        narrow = np.asarray(
            keras.ops.cast(keras.ops.cast(x, dtype[6:]), "float64")
        )
        np.testing.assert_allclose(
            layer.moving_variance, narrow.var(0), rtol=1e-4
        )


def test_float64_policy_stays_float64():
    x = features(mean=1e6).astype(np.float64)
    layer = BatchNormalization(dtype="float64", epsilon=1e-9)
    y = layer(x, training=True)
    expected, _, _ = reference.forward(x, 1.0, 0.0, (0,), 1e-9)
    np.testing.assert_allclose(y, expected, atol=1e-8)


def test_config_makes_the_same_layer():
    layer = BatchNormalization(
        axis=(1, 3),
        momentum=0.5,
        epsilon=1e-4,
        center=False,
        gamma_initializer=keras.initializers.Constant(2.0),
        gamma_regularizer=keras.regularizers.L2(0.1),
        gamma_constraint=keras.constraints.NonNeg(),
        name="bn",
    )
    config = layer.get_config()
    again = BatchNormalization.from_config(config)
    assert again.get_config() == config
    assert dir(again) == dir(layer)
    assert again.axis == (1, 3)


def test_every_argument_of_keras_with_its_default():
    import inspect

    theirs = inspect.signature(keras.layers.BatchNormalization).parameters
    ours = inspect.signature(BatchNormalization).parameters
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name
    of_later_keras = {"renorm", "renorm_clipping", "renorm_momentum"}
    extra = ours.keys() - theirs.keys() - of_later_keras
    assert all(ours[name].kind is parameter.KEYWORD_ONLY for name in extra)


@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
def test_saved_and_loaded_model_predicts_the_same(tmp_path, suffix):
    def make():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(4), BatchNormalization()]
        )

    model = make()
    model.compile("sgd", "mse")
    model.fit(features(), np.ones((32, 4)), epochs=2, verbose=0)
    path = tmp_path / f"model.{suffix}"
    if suffix == "keras":
        model.save(path)
        again = keras.models.load_model(path)
    else:
        model.save_weights(path)
        again = make()
        again.load_weights(path)
    np.testing.assert_array_equal(
        model.predict(features(), verbose=0),
        again.predict(features(), verbose=0),
    )


def test_fit_evaluate_and_gradients_in_a_convolutional_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, use_bias=False),
            BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.05), "mse")
    x = features((64, 6, 6, 2))
    y = x.mean((1, 2, 3))
    history = model.fit(x, y, epochs=20, batch_size=16, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_layer_gradient_is_the_hand_written_one():
    """Keras' autodiff gradient agrees, at a mean where it still can."""
    x = tf.constant(features((16, 5), mean=1.0))
    dy = np.random.default_rng(3).normal(size=(16, 5)).astype(np.float32)
    results = []
    for make in (BatchNormalization, keras.layers.BatchNormalization):
        layer = built(make())
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) * dy)
        results.append(tape.gradient(loss, [x, *layer.trainable_variables]))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 2}, r"\[0, 1\]. Received: momentum=2"),
        ({"momentum": -0.1}, r"\[0, 1\]. Received: momentum=-0.1"),
        ({"epsilon": -1}, "Received: epsilon=-1"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchNormalization(**arguments)


@pytest.mark.parametrize(
    ("axis", "shape", "message"),
    [
        (7, (None, 4, 4, 5), r"\[-4, 3\] .* rank 4. Received: axis=7"),
        ((1, -3), (None, 4, 4, 5), r"different axes. Received: axis=\(1, -3\)"),
        ((0, 1), (None, 5), r"at least one axis to take statistics over"),
        (-1, (None, None), r"defined size. Received: axis=-1"),
    ],
)
def test_bad_axes_are_refused_when_built(axis, shape, message):
    with pytest.raises(ValueError, match=message):
        BatchNormalization(axis=axis).build(shape)
