# SPDX-License-Identifier: Apache-2.0
"""Small networks with BN in every place that Keras allows."""

import keras
import numpy as np

from keras_bn import BatchNormalization

layers = keras.layers


def randomized(model, seed=0):
    """Gives every weight and statistic a value that no default has."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * _sign(weight, rng))
    return model


def _sign(weight, rng):
    if "variance" in weight.path or "std" in weight.path:
        return 1
    return rng.choice([-1, 1], weight.shape)


def inputs_of(model, examples=6, seed=1):
    rng = np.random.default_rng(seed)
    shape = (examples, *model.input_shape[1:])
    return (rng.normal(size=shape) + 1).astype(np.float32)


def sequential(norm=layers.BatchNormalization):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3), name="image"),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            norm(name="bn"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(5, name="dense"),
            norm(name="bn2"),
        ],
        name="chain",
    )


def branched(norm=layers.BatchNormalization):
    image = keras.Input((6, 6, 3), name="image")
    left = norm(name="left_bn")(layers.Conv2D(4, 3, name="left")(image))
    right = layers.Conv2D(2, 3, padding="valid", name="right")(image)
    both = layers.Concatenate(name="both")([left, right])
    x = keras.ops.relu(norm(scale=False, epsilon=0.1, name="both_bn")(both))
    x = layers.Conv2D(4, 1, name="out")(x) + left
    return keras.Model(image, x, name="branched")


def nested(norm=layers.BatchNormalization):
    inner = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, name="inner_dense"),
            norm(name="inner_bn"),
        ],
        name="inner",
    )
    x = keras.Input((4,), name="x")
    outer = layers.Dense(3, name="dense")(inner(inner(x)))
    return keras.Model(x, norm(name="bn")(outer), name="outer")


def shared(norm=layers.BatchNormalization):
    """One BN layer, and one dense layer, called twice."""
    x = keras.Input((4,), name="x")
    dense, bn = layers.Dense(4, name="dense"), norm(name="bn")
    return keras.Model(x, bn(dense(keras.ops.tanh(bn(dense(x))))), name="twice")


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """Holds layers and a weight of its own in attributes of several kinds."""

    def __init__(self, units, norm=layers.BatchNormalization, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = [layers.Dense(units), layers.Dense(units)]
        others = [norm(name="other_bn", trainable=False)]
        self.norms = {"first": norm(name="first_bn"), "others": others}
        self.attention = layers.MultiHeadAttention(1, 2)
        self.scale = self.add_weight(shape=(), name="scale")

    def build(self, input_shape):
        hidden = (*input_shape[:-1], self.units)
        self.dense[0].build(input_shape)
        self.dense[1].build(hidden)
        self.norms["first"].build(hidden)
        self.norms["others"][0].build(hidden)
        self.attention.build(hidden, hidden)

    def call(self, x, training=None):
        x = self.norms["first"](self.dense[0](x), training=training)
        x = self.norms["others"][0](self.dense[1](x), training=training)
        return self.attention(x, x) * self.scale

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def composite(norm=layers.BatchNormalization):
    x = keras.Input((5, 3), name="x")
    y = layers.TimeDistributed(norm(name="bn"), name="each")(
        Block(4, norm, name="block")(x)
    )
    return keras.Model(x, y, name="composite")


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    """No graph that Keras knows of."""

    def __init__(self, norm=layers.BatchNormalization, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4)
        self.norm = norm(name="first_bn")
        self.rest = keras.Sequential([layers.Dense(3), norm(name="last_bn")])

    def call(self, x, training=None):
        x = self.norm(self.first(x), training=training)
        return self.rest(x, training=training)

    def get_config(self):
        return {"name": self.name}


def subclassed(norm=layers.BatchNormalization):
    model = Subclassed(norm, name="subclassed")
    model(np.zeros((1, 4)))
    return model


ALL = [sequential, branched, nested, shared, composite, subclassed]
NORMS = [layers.BatchNormalization, BatchNormalization]
