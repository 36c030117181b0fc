# SPDX-License-Identifier: Apache-2.0
"""Which parts of a model are measured, for every kind of model."""

import keras
import numpy as np
import pytest
from keras import layers

import analysis
from analysis import structure


def example(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Residual(keras.Model):
    """One activation layer for all, as code from elsewhere often has it."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(8, name="first")
        self.second = layers.Dense(8, name="second")
        self.third = layers.Dense(8, name="third")
        self.relu = layers.ReLU(name="relu")

    def call(self, x):
        x = self.relu(self.first(x))
        x = self.relu(self.second(x))
        return self.relu(100 * x + self.third(x))


def test_blocks_that_end_in_one_layer_are_told_apart():
    model, x = Residual(), example(64, 5)
    model(x)
    blocks = structure.blocks(model, inputs=x)
    assert [block.name for block in blocks] == ["first", "second"]
    found = analysis.inspect_model(model, probe=x, measures=["percentiles"])
    first = np.asarray(model.first(x))
    second = np.asarray(model.second(model.relu(first)))
    for name, drive in (("first", first), ("second", second)):
        assert found.numbers[f"percentiles/{name}/p85"] == pytest.approx(
            np.percentile(drive, 85), rel=1e-5
        )


def test_each_call_of_a_shared_kernel_is_its_own_block():
    x = keras.Input((6,))
    dense = layers.Dense(6, name="dense")
    y = layers.ReLU(name="a")(layers.BatchNormalization(name="bn_a")(dense(x)))
    z = layers.ReLU(name="b")(layers.BatchNormalization(name="bn_b")(dense(y)))
    model = keras.Model(x, z)
    blocks = structure.blocks(model)
    assert [(block.name, block.calls) for block in blocks] == [
        ("a", (0, 0, 0)),
        ("b", (1, 0, 0)),
    ]
    values = example(500, 6)
    found = analysis.inspect_model(
        model, probe=values, measures=["covariance"]
    ).numbers
    white = "covariance/{}/whitening_distance".format
    assert found[white("a")] < 0.5 * found[white("b")]


def test_one_block_that_is_called_several_times_is_one():
    x = keras.Input((4,))
    dense, relu = layers.Dense(4, name="dense"), layers.ReLU(name="relu")
    model = keras.Model(x, relu(dense(relu(dense(x)))))
    (block,) = structure.blocks(model)
    assert (block.name, block.calls) == ("relu", (1, 1))


def test_an_activation_may_be_a_layer_in_a_layer():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation=layers.ReLU(), name="inside"),
            layers.Dense(3, activation="relu", name="function"),
        ]
    )
    x = example(50, 5)
    names = [block.name for block in structure.blocks(model, inputs=x)]
    assert names == ["inside", "function"]
    found = analysis.inspect_model(model, probe=x, measures=["percentiles"])
    kernel, bias = model.layers[0].get_weights()
    assert found.numbers["percentiles/inside/p50"] == pytest.approx(
        np.median(x @ kernel + bias), rel=1e-4
    )


@pytest.mark.parametrize(
    "activation",
    [layers.Softmax(), layers.PReLU(), layers.Activation("softmax"), "softmax"],
)
def test_an_activation_of_several_values_has_no_slope(activation):
    model = keras.Sequential([layers.Dense(4, activation=activation)])
    (block,) = structure.blocks(model, inputs=example(5, 3))
    assert block.activation is None


def test_layers_that_are_made_late_are_called_once():
    x = keras.Input((5,))
    dense = layers.Dense(4, activation=layers.PReLU(), name="dense")
    (block,) = structure.blocks(keras.Model(x, dense(x)))
    assert block.calls == (0,)


def test_an_attribute_of_that_name_may_be_anything():
    class Listing(layers.Layer):
        def __init__(self):
            super().__init__()
            self.activation = ["relu"]
            self.dense = layers.Dense(3, activation="relu", name="dense")

        def call(self, x):
            return self.dense(x)

    x = keras.Input((5,))
    (block,) = structure.blocks(keras.Model(x, Listing()(x)))
    assert block.name == "dense"


def test_nested_models_may_have_layers_of_one_name():
    def encoder(name):
        x = keras.Input((5,))
        y = layers.Dense(8, activation="relu", name="hidden")(x)
        return keras.Model(x, y, name=name)

    left, right = keras.Input((5,)), keras.Input((5,))
    both = layers.Concatenate()([encoder("a")(left), encoder("b")(right)])
    model = keras.Model([left, right], layers.Dense(2, name="out")(both))
    assert [x.name for x in structure.blocks(model)] == ["hidden", "hidden_2"]
    assert len(structure.linear_layers(model)) == 3


def test_names_that_tags_would_mix_are_told_apart():
    x = keras.Input((4,))
    inner = keras.Sequential([layers.Dense(4, name="h")], name="a")
    other = keras.Sequential([layers.Dense(4, name="h")], name="b")
    model = keras.Model(x, layers.Dense(2, name="a_h")(other(inner(x))))
    names = [name.replace("/", "_") for name in structure.operations(model)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", ["Conv1D", "BatchNormalization"])
def test_features_may_come_first(kind):
    model = keras.Sequential(
        [
            keras.Input((4, 6)),
            layers.Conv1D(5, 3, data_format="channels_first", name="conv"),
            layers.BatchNormalization(axis=1, name="bn"),
            layers.ReLU(name="relu"),
        ]
    )
    x = example(200, 4, 6)
    found = analysis.inspect_model(
        model,
        probe=x,
        measures=["percentiles"],
        layers=[["conv"], ["bn"]][kind == "BatchNormalization"],
    ).numbers
    name, values = "conv", np.asarray(model.layers[0](x))
    if kind == "BatchNormalization":
        name, values = "bn", np.asarray(model.layers[1](values))
    assert found[f"percentiles/{name}/unit0/p50"] == pytest.approx(
        np.median(values[:, 0]), rel=1e-5
    )


def test_layers_with_weights_in_the_order_in_which_they_run():
    model = keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(20, 8, name="embedding"),
            layers.LSTM(6, name="lstm"),
            layers.BatchNormalization(name="bn"),
            layers.Dense(3, activation=layers.PReLU(name="prelu"), name="d"),
        ]
    )
    found = structure.weighted_layers(model, inputs=np.zeros((1, 7), np.int32))
    names = [layer.name for layer in found]
    assert names == ["embedding", "lstm_cell", "bn", "prelu", "d"]
