# SPDX-License-Identifier: Apache-2.0
"""Jacobians between two tensors of any model."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import analysis
from analysis import (
    Span,
    event_file,
    jacobian_singular_values,
    jacobian_spectrum,
)
from tests.reference import jacobians as reference

DOCS = Path(__file__).parents[1] / "docs"


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(4, name="first")
        self.inner = keras.Sequential(
            [layers.Dense(3, name="second"), layers.Activation("tanh")],
            name="inner",
        )
        self.last = layers.Dense(2, name="last")

    def call(self, x):
        x = keras.ops.sin(self.first(x))
        return self.last(self.inner(x) + x[:, :3])


def functional():
    """A shortcut, an operation that is no layer, and a coupled training."""
    inputs = keras.Input((5,))
    first = layers.Dense(4, name="first")(inputs)
    x = layers.BatchNormalization(name="norm")(first)
    x = layers.Dense(4, activation="tanh", name="second")(x)
    x = keras.ops.multiply(x, first)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(3, name="last")(x))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = functional()
    for layer in model.layers:
        layer.set_weights(
            [
                np.random.default_rng(1).uniform(0.05, 0.3, w.shape)
                for w in layer.get_weights()
            ]
        )
    return model


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(1, 1, (3, 5)).astype(np.float32)


def values(function, x):
    return np.linalg.svd(
        reference.central_differences(function, x, 1e-2), compute_uv=False
    )


def layer(model, name, x):
    return keras.ops.convert_to_numpy(model.get_layer(name)(x))


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_what_runs_past_the_start_is_held_fixed(model, x, method):
    """From `norm`: the other factor of the product comes from `first`."""
    span = Span(model, start="norm", end="last")
    found = jacobian_spectrum(span, x, method=method)
    assert span.name == "norm_to_last"
    for i in range(3):
        first = layer(model, "first", x[i : i + 1])
        matrix = (
            np.asarray(model.get_layer("second").kernel)
            * (1 - layer(model, "second", layer(model, "norm", first)) ** 2)
            * first
        ) @ np.asarray(model.get_layer("last").kernel)
        expected = np.linalg.svd(matrix, compute_uv=False)
        assert found.values[i, 0] == pytest.approx(expected[0], rel=1e-4)
        assert found.mean_square[i] == pytest.approx(
            reference.mean_square(expected),
            rel=1e-4 if method == "exact" else 1,
        )


def test_from_the_input_to_the_output_is_the_whole_model(model, x):
    whole = jacobian_singular_values(model, x)
    for span in (
        Span(model),
        Span(model, start=model.input, end=model.output),
        Span(model, end="last"),
    ):
        np.testing.assert_allclose(
            jacobian_singular_values(span, x), whole, rtol=1e-5
        )


def test_symbolic_tensors_name_the_layer_they_come_from(model, x):
    start = model.get_layer("first").output
    by_tensor = Span(model, start=start, end=model.get_layer("norm").output)
    by_name = Span(model, start="first", end="norm")
    assert by_tensor.name == by_name.name
    found = jacobian_singular_values(by_tensor, x)
    norm = model.get_layer("norm")
    expected = jacobian_singular_values(norm, layer(model, "first", x))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_batch_mode_couples_the_examples(model, x):
    span = Span(model, start="first", end="norm")
    found = jacobian_singular_values(span, x, mode="batch")
    norm = model.get_layer("norm")
    expected = reference.training_mode_batch_norm(
        layer(model, "first", x), np.asarray(norm.gamma), norm.epsilon
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_batch_mode_changes_no_state(model, x):
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    jacobian_spectrum(Span(model), x, mode="batch")
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    # Nor the layers' graph: each has still one output.
    assert model.get_layer("norm").output.shape == (None, 4)


def test_subclassed_models_and_layers_within_layers(x):
    keras.utils.set_random_seed(0)
    model = Subclassed()
    model(x)
    span = Span(model, start="first", end="last")
    found = jacobian_singular_values(span, x)

    def after_first(z):
        z = np.sin(z)
        return model.last(model.inner(z) + z[:, :3])

    for i in range(3):
        z = keras.ops.convert_to_numpy(model.first(x[i : i + 1]))
        np.testing.assert_allclose(found[i], values(after_first, z), rtol=1e-3)
    deep = jacobian_singular_values(Span(model, start="first", end="second"), x)
    kernel = np.asarray(model.inner.layers[0].kernel)
    for i in range(3):
        z = keras.ops.convert_to_numpy(model.first(x[i : i + 1]))
        expected = np.linalg.svd(np.cos(z).T * kernel, compute_uv=False)
        np.testing.assert_allclose(deep[i], expected, rtol=1e-4)


def test_wrong_ends(model, x):
    with pytest.raises(
        ValueError, match=r"one of .*first.*last.*Received: frist"
    ):
        Span(model, start="frist")
    with pytest.raises(ValueError, match="differentiable"):
        jacobian_spectrum(Span(model, start="last", end="first"), x)
    shared = layers.Dense(5, name="shared")
    inputs = keras.Input((5,))
    twice = keras.Model(inputs, shared(shared(inputs)))
    with pytest.raises(ValueError, match="Received: shared, called 2 times"):
        jacobian_spectrum(Span(twice, start="shared"), x)


def test_a_batch_jacobian_starts_where_training_runs(x):
    """From `norm`, whose output depends on the mode."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.BatchNormalization(name="norm"),
            layers.Dense(4, activation="sigmoid", name="last"),
        ]
    )
    span = Span(model, start="norm", end="last")
    normalized = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    np.testing.assert_allclose(
        jacobian_singular_values(span, x, mode="batch"),
        jacobian_singular_values(
            model.get_layer("last"), normalized, mode="batch"
        ),
        rtol=1e-4,
    )


def test_single_measures_as_in_the_docs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "tensorboard.md").read_text("utf-8")
    code = page.split("## Single measures")[1].split("```")[1]
    h = inputs = keras.Input((6,))
    for block in (1, 2):
        dense = layers.Dense(6, activation="tanh", name=f"dense_{block}")
        h = layers.Add(name=f"add_{block}")([h, dense(h)])
    model = keras.Model(inputs, layers.Dense(3, name="last")(h))
    model.compile("sgd", "mse")
    x_test = x = np.random.default_rng(0).normal(size=(64, 6))
    activations, y = x[:, :2], x[:, :3]
    names = {**locals(), "analysis": analysis}
    exec(code.removeprefix("python"), names)
    assert names["values"].shape == (20, 5)
    assert names["bands"].shape == (3, 2)
    tags = {tag for tag, *_ in event_file.scalars(Path("runs/mine/analysis"))}
    assert {
        "percentiles/dense_1/p50",
        "jacobian/dense_2/inference/s3",
    } <= tags
