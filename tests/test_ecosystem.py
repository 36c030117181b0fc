# SPDX-License-Identifier: Apache-2.0
"""The layer in what Keras and TensorFlow offer: saving, export, precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization
from tests import layers, versions

KERAS = keras.layers.BatchNormalization
OPTIONS = {
    "default": {},
    "no_center": {"center": False},
    "no_scale": {"scale": False},
    "several_axes": {"axis": (1, 2, 3)},
    "synchronized": {"synchronized": True},
    "renorm": {"renorm": True, "renorm_clipping": {"rmax": 1.2, "dmax": 0.3}},
    "unbiased": {"moving_variance_estimator": "unbiased"},
    "cumulative": {"moving_average": "cumulative"},
    "virtual_batches": {"virtual_batch_size": 5},
    "activation": {"activation": "relu"},
    "own_dtype": {"dtype": "float64"},
}
#: What Keras' layer has too.
COMMON = (
    *("default", "no_center", "no_scale"),
    pytest.param("renorm", marks=versions.needs_renorm),
)
#: What is not the same at inference.
EXPORTED = ("default", "no_scale", "several_axes", "activation")
options = pytest.mark.parametrize("option", OPTIONS)


def network(make=BatchNormalization, *, seed=0, **options):
    """A small convolutional network with two normalizing layers."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, use_bias=False),
            make(**options),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
            make(),
        ]
    )
    # Eagerly: nothing to compile, and other modules do.
    model.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=True)
    return model


def images(dtype="float32"):
    return layers.features((32, 6, 6, 2), dtype=dtype)


def trained(*arguments, **options):
    model = network(*arguments, **options)
    train(model)
    return model


def train(model):
    x, target = images(), layers.cotangent((32, 3)).astype(np.float32)
    for part in (slice(None, 16), slice(16, None)):
        model.train_on_batch(x[part], target[part])


def predictions(model):
    return model(images(), training=False).numpy()


@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
@options
def test_what_was_saved_predicts_and_trains_on_the_same(
    option, suffix, tmp_path
):
    model = trained(**OPTIONS[option])
    path = tmp_path / f"model.{suffix}"
    if suffix == "keras":
        model.save(path)
        again = keras.models.load_model(path)
    else:
        model.save_weights(path)
        again = network(seed=1, **OPTIONS[option])
        again.load_weights(path)
    np.testing.assert_array_equal(predictions(again), predictions(model))
    for each in (model, again):
        train(each)
    for got, want in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("option", COMMON)
@pytest.mark.parametrize(
    ("source", "target"),
    [(KERAS, BatchNormalization), (BatchNormalization, KERAS)],
)
def test_weight_files_fit_keras_own_layer_and_back(
    source, target, option, tmp_path
):
    model = trained(source, **OPTIONS[option])
    model.save_weights(tmp_path / "trained.weights.h5")
    other = network(target, seed=1, **OPTIONS[option])
    assert np.abs(predictions(other) - predictions(model)).max() > 0.1
    other.load_weights(tmp_path / "trained.weights.h5")
    np.testing.assert_allclose(
        predictions(other), predictions(model), rtol=1e-6, atol=1e-6
    )


@options
def test_a_cloned_model_has_the_same_layers(option):
    model = trained(**OPTIONS[option])
    clone = keras.models.clone_model(model)
    assert clone.get_config() == model.get_config()
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(predictions(clone), predictions(model))


@pytest.mark.parametrize("option", EXPORTED)
def test_export_to_saved_model_keeps_outputs_and_gradients(option, tmp_path):
    model = trained(**OPTIONS[option])
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    x = tf.constant(images())
    results = []
    for function in (model, loaded.serve):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            loss = tf.reduce_sum(y * layers.cotangent((32, 3)))
        results.append((y, tape.gradient(loss, x)))
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert np.abs(results[0][1]).max() > 1e-3


@versions.needs_litert
# TensorFlow's interpreter is to be replaced by a package of its own.
@pytest.mark.filterwarnings("ignore:(?s).*tf.lite.Interpreter:UserWarning")
@pytest.mark.parametrize("option", EXPORTED)
def test_export_to_litert_keeps_the_outputs(option, tmp_path):
    model = trained(**OPTIONS[option])
    path = tmp_path / "model.tflite"
    model.export(str(path), format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(path))
    (given,), (taken,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    interpreter.resize_tensor_input(given["index"], images().shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images())
    interpreter.invoke()
    np.testing.assert_allclose(
        interpreter.get_tensor(taken["index"]),
        predictions(model),
        rtol=1e-5,
        atol=1e-5,
    )


@versions.needs_litert
@pytest.mark.filterwarnings("ignore:(?s).*tf.lite.Interpreter:UserWarning")
@pytest.mark.parametrize("size", [4, 64], ids=["plain", "compiled"])
def test_litert_folds_the_layer_into_a_convolution(size, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(8, 3),
            BatchNormalization(activation="relu"),
        ]
    )
    path = tmp_path / "model.tflite"
    model.export(str(path), format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(path))
    names = [x["op_name"] for x in interpreter._get_ops_details()]
    assert [name for name in names if name != "DELEGATE"] == ["CONV_2D"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_saves_and_loads(policy, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = network()
        losses = []
        for _ in range(10):
            train(model)
            target = layers.cotangent((32, 3)).astype(np.float32)
            losses.append(model.evaluate(images(), target, verbose=0))
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy(before)
    assert losses[-1] < losses[0]
    assert {w.dtype for w in again.weights} == {"float32"}
    assert again.layers[1].dtype_policy.name == policy
    np.testing.assert_array_equal(predictions(again), predictions(model))


# Keras says so of every layer that has nothing to quantize.
@pytest.mark.filterwarnings("ignore:.*`quantize` method:UserWarning")
def test_quantizing_a_model_leaves_the_layer_as_it_is():
    model = trained()
    want = predictions(model)
    before = model.layers[1].get_weights()
    model.quantize("int8")
    assert model.layers[4].quantization_mode == "int8"
    for now, then in zip(model.layers[1].get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    error = np.abs(predictions(model) - want).max()
    assert 0 < error < 0.05 * np.abs(want).max()


def same_training(make_model, x):
    """The same model with our and with Keras' layer, after some training."""
    models = [make_model(make) for make in (BatchNormalization, KERAS)]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        model.compile(keras.optimizers.SGD(0.05), "mse")
        y = np.ones(model.compute_output_shape(x.shape), np.float32)
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for got, want in zip(*(m.weights for m in models), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    ours, theirs = (model.predict(x, verbose=0) for model in models)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    return models[0]


@pytest.mark.parametrize("masked", [False, True])
def test_time_distributed_normalizes_each_step_by_itself(masked):
    x = layers.features((16, 4, 3), dtype="float32")
    if masked:
        x[3:9, 2:] = 0

    def make_model(make):
        inputs = keras.Input((4, 3))
        hidden = keras.layers.Masking(0.0)(inputs) if masked else inputs
        wrapped = keras.layers.TimeDistributed(make(momentum=0.5))
        return keras.Model(inputs, wrapped(hidden))

    model = same_training(make_model, x)
    followed = model.layers[-1].layer.moving_mean.numpy()
    assert np.all(followed > 1)


@keras.saving.register_keras_serializable(package="tests")
class NormalizingCell(keras.layers.Layer):
    """`h' = tanh(BN(W [x, h]))`."""

    def __init__(self, units, keras_own=False, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.keras_own = keras_own
        self.dense = keras.layers.Dense(units, use_bias=False)
        self.norm = (KERAS if keras_own else BatchNormalization)(momentum=0.5)

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1] + self.units))
        self.norm.build((None, self.units))

    def call(self, inputs, states, training=None):
        hidden = self.dense(keras.ops.concatenate([inputs, states[0]], -1))
        state = keras.ops.tanh(self.norm(hidden, training=training))
        return state, [state]

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "keras_own": self.keras_own,
        }


@pytest.mark.parametrize("unroll", [False, True])
def test_a_recurrent_cell_in_both_directions(unroll):
    x = layers.features((16, 4, 3), mean=0.0, dtype="float32")

    def make_model(make):
        inputs = keras.Input((4, 3))
        cell = NormalizingCell(5, keras_own=make is KERAS)
        recurrent = keras.layers.RNN(cell, unroll=unroll)
        return keras.Model(
            inputs, keras.layers.Bidirectional(recurrent)(inputs)
        )

    model = same_training(make_model, x)
    assert len(model.weights) == 2 * 5
