# SPDX-License-Identifier: Apache-2.0
"""Gradients of the training loss, their sizes, and the loss along them."""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_bn
from analysis import autodiff, callbacks
from analysis.measures import gradients, landscape
from keras_bn import recipes, training
from keras_bn.backend import execution
from tests.reference import measures as reference
from tests.reference.batch_norm import central_differences


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return [
        rng.normal(3, 1, shape).astype(np.float32) for shape in [(4, 3), (5,)]
    ]


@pytest.fixture(scope="module")
def trained():
    """A compiled model with everything that adds to its loss, and a batch."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(
                4, kernel_regularizer=keras.regularizers.L2(0.3)
            ),
            keras_bn.BatchNormalization(),
            keras.layers.ActivityRegularization(l2=0.02),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
    )
    # XLA, which is Keras' choice on a GPU, draws another dropout.
    model.compile("sgd", keras.losses.MeanSquaredError(), jit_compile=False)
    yield model, rng.normal(5, 2, (6, 3)), rng.normal(size=(6, 2))
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def weights(model):
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


def test_gradient_equals_finite_differences(trained):
    model, x, y = trained
    at = autodiff.loss_and_gradients(model, x, y)
    values = weights(model)
    _, found = at(values)
    for i, gradient in enumerate(found):

        def loss(array, i=i):
            return at([*values[:i], array, *values[i + 1 :]])[0]

        np.testing.assert_allclose(
            gradient, central_differences(loss, values[i], 1e-6), atol=1e-7
        )


def test_it_is_the_gradient_of_a_training_step(trained):
    """Plain gradient descent moves the weights by just that."""
    model, x, y = trained
    model.optimizer.learning_rate = 0.25
    before = weights(model)
    _, found = autodiff.loss_and_gradients(model, x, y)(before)
    state = [keras.ops.convert_to_numpy(v) for v in model.variables]
    model.train_on_batch(x, y)
    for old, new, gradient in zip(before, weights(model), found, strict=True):
        np.testing.assert_allclose(new, old - 0.25 * gradient, atol=1e-6)
    for variable, value in zip(model.variables, state, strict=True):
        variable.assign(value)


def test_the_loss_of_a_run_is_the_one_it_trains():
    """An auxiliary head and L2 are part of it."""
    recipe = recipes.BN_X5.replace(
        auxiliary_head=True, image_size=80, width=0.02, measures=("gradients",)
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 80, 80, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 1], np.int32)
    model = training.build_model(
        recipe, input_shape=images.shape[1:], classes=3
    )
    probe = SimpleNamespace(probe=lambda: (images, labels))
    (_, watching, _) = callbacks.for_run(Path(), recipe, probe)
    at = autodiff.loss_and_gradients(
        model, watching.probe.inputs, watching.probe.targets
    )
    measured, _ = at(weights(model))
    step = execution.make_train_step(model)
    np.testing.assert_allclose(measured, step(images, labels)[0], rtol=1e-5)


def test_nothing_of_the_model_changes(trained):
    model, x, y = trained
    at = autodiff.loss_and_gradients(model, x, y)
    state = [keras.ops.convert_to_numpy(v) for v in model.variables]
    first, again = at(weights(model))[0], at(weights(model))[0]
    assert first == again
    for variable, value in zip(model.variables, state, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_small_gradients_survive_half_precision():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1)], name="half"
    )
    half = keras.models.clone_model(
        model,
        clone_function=lambda layer: layer.__class__.from_config(
            {**layer.get_config(), "dtype": "mixed_float16"}
        ),
    )
    half.dtype_policy = "mixed_float16"
    half.set_weights(model.get_weights())
    x, y = np.full((4, 3), 1e-4), np.full((4, 1), 1e-4)
    found = []
    for network in (model, half):
        network.compile("sgd", "mse")
        at = autodiff.loss_and_gradients(network, x, y)
        found.append(at(weights(network))[1][0])
    assert 0 < np.abs(found[0]).max() < 1e-7
    np.testing.assert_allclose(found[1], found[0], rtol=0.1)


def test_norm_update_and_growth(arrays):
    after = [a * 1.01 + 0.1 for a in arrays]
    change = [a - b for a, b in zip(after, arrays, strict=True)]
    size = reference.norm(arrays)
    assert gradients.norm(arrays) == pytest.approx(size)
    assert gradients.update_ratio(arrays, after) == pytest.approx(
        reference.norm(change) / size, rel=1e-6
    )
    assert gradients.growth(arrays, after) == pytest.approx(
        reference.norm(after) / size, rel=1e-6
    )


def test_weights_that_start_from_zero():
    zeros, ones = [np.zeros(3)], [np.ones(3)]
    assert gradients.growth(zeros, ones) == np.inf
    assert gradients.update_ratio(zeros, ones) == np.inf
    assert gradients.update_ratio(zeros, zeros) == 0


def test_landscape_of_a_quadratic():
    """f = sum(c w^2) / 2: everything along the gradient in closed form."""
    c = np.array([1.0, 3.0, 0.5])
    w = np.array([2.0, -1.0, 4.0])

    def at(weights):
        (v,) = weights
        return float(np.sum(c * v**2) / 2), [c * v]

    found = landscape.along_gradient(at, [w], (0.1, 0.5, 2.0))
    for i, d in enumerate((0.1, 0.5, 2.0)):
        there = w - d * c * w
        assert found.losses[i] == pytest.approx(np.sum(c * there**2) / 2)
        change = np.linalg.norm(c * there - c * w)
        assert found.gradient_changes[i] == pytest.approx(change)
    expected = np.linalg.norm(c * c * w) / np.linalg.norm(c * w)
    assert found.smoothness == pytest.approx(expected)


def test_landscape_at_a_minimum_has_no_smoothness():
    found = landscape.along_gradient(
        lambda _: (1.0, [np.zeros(2)]), [np.ones(2)], [1.0]
    )
    assert np.isnan(found.smoothness)


@pytest.mark.parametrize("distances", [(), (0.0, 1.0), (-1.0,)])
def test_distances_must_be_positive(distances):
    with pytest.raises(ValueError, match="Received: distances="):
        landscape.along_gradient(
            lambda w: (0.0, list(w)), [np.ones(2)], distances
        )
