# SPDX-License-Identifier: Apache-2.0
"""Copies of models: what `convert` and `fold` have in common."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bn
from keras_bn import structure
from tests import networks, versions

KERAS, OURS = networks.NORMS
layers = keras.layers

COPIES = {"convert": keras_bn.convert, "fold": keras_bn.fold}
both_copies = pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)


class Pair(NamedTuple):
    dense: keras.layers.Layer
    norm: keras.layers.Layer


#: Ways of holding a dense layer and a BN layer.
CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "named tuple": lambda pair: Pair(*pair),
    "dictionary": lambda pair: dict(zip("ab", pair, strict=True)),
    "tuple in a list": lambda pair: [tuple(pair)],
    "tuples in a tuple": lambda pair: ((pair[0],), (pair[1],)),
    "tuple in a dictionary": lambda pair: {"both": tuple(pair)},
    "list in a tuple": lambda pair: (pair[0], [pair[1]]),
}


class Holding(keras.Model):
    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.pair = CONTAINERS[kind]([layers.Dense(4), KERAS()])

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}

    def call(self, x):
        for layer in structure.sublayers(self):
            x = layer(x)
        return x


class Unordered(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pair = {layers.Dense(4), layers.Dense(4)}

    def call(self, x):
        return sum(layer(x) for layer in self.pair)


class Plain(keras.Model):
    """As most models are written: its constructor knows no name."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)
        self.norm = KERAS()

    def call(self, x, training=None):
        return self.norm(self.dense(x), training=training)


class TakingAnything(keras.Model):
    """What its constructor takes is Keras' own affair."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dense = layers.Dense(3)
        self.norm = KERAS()

    def call(self, x, training=None):
        return self.norm(self.dense(x), training=training)


class OfUnits(keras.Model):
    """Keras' own get_config() believes that there are always 3."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units)
        self.norm = KERAS()

    def call(self, x):
        return self.norm(self.dense(x))


class OfLayer(keras.layers.Layer):
    """Keras says that it cannot be made again."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)


class Doubled(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training, mask=mask)


class Tenfold(keras.Model):
    """Takes inputs and outputs, as any functional model."""

    def call(self, x, training=None, mask=None):
        return 10 * super().call(x, training=training, mask=mask)


class Chain(keras.Sequential):
    """A constructor of its own, which predictions do not depend on."""

    def __init__(self, units, **kwargs):
        members = [keras.Input((4,)), layers.Dense(units), KERAS()]
        super().__init__(members, **kwargs)


class TenfoldOfUnits(Tenfold):
    def __init__(self, units=3, **kwargs):
        x = keras.Input((4,))
        super().__init__(x, KERAS()(layers.Dense(units)(x)), **kwargs)


def example(model):
    x = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    model(x)
    return networks.randomized(model), x


def assert_same(copy, model, *inputs):
    np.testing.assert_allclose(
        copy(*inputs), model(*inputs), rtol=1e-5, atol=1e-5
    )


@both_copies
@pytest.mark.parametrize("kind", CONTAINERS)
def test_layers_in_containers_are_copied(copy, kind):
    model, x = example(Holding(kind))
    copied = copy(model)
    assert_same(copied, model, x)
    (norm,) = structure.batch_normalizations(copied)
    assert type(norm) is (OURS if copy is keras_bn.convert else KERAS)


@both_copies
def test_layers_in_sets_are_refused(copy):
    model, _ = example(Unordered())
    with pytest.raises(ValueError, match="the set pair of Unordered"):
        copy(model)


def test_layers_that_no_attribute_shows_are_refused():
    class Hiding(Plain):
        def __init__(self):
            super().__init__()
            hidden = layers.Dense(3, name="hidden")
            self._tracker.track(hidden)
            self.apply = lambda x: hidden(x)

        def call(self, x, training=None):
            return self.apply(super().call(x, training=training))

    model, _ = example(Hiding())
    with pytest.raises(ValueError, match="Received: hidden in Hiding hiding"):
        keras_bn.convert(model)


@both_copies
def test_a_constructor_may_take_anything(copy):
    model, x = example(TakingAnything())
    assert_same(copy(model), model, x)


class Making(Plain):
    """Makes itself again of all that its configuration has."""

    def get_config(self):
        return super().get_config()

    @classmethod
    def from_config(cls, config):
        made = cls()
        made.name = config["name"]
        made.dtype_policy = keras.saving.deserialize_keras_object(
            config["dtype"]
        )
        return made


@both_copies
def test_a_class_may_make_itself_again(copy):
    model, x = example(Making())
    copied = copy(model)
    assert copied.name == model.name
    assert_same(copied, model, x)


@both_copies
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_constructor_need_not_take_what_every_layer_takes(copy, dtype):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model, x = example(Plain())
    finally:
        keras.config.set_dtype_policy(before)
    copied = copy(model)
    np.testing.assert_allclose(copied(x), model(x), rtol=1e-2, atol=1e-2)
    assert copied.name == model.name
    assert copied.dtype_policy.name == dtype
    assert copied.norm.compute_dtype == model.norm.compute_dtype


@both_copies
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: OfUnits(5), "OfUnits of_units.*: .* what its units was"),
        (
            lambda: keras.Sequential([OfLayer(layers.Dense(3)), KERAS()]),
            "OfLayer of_layer.*: .* must override `get_config",
        ),
    ],
)
def test_what_cannot_be_made_again_is_one_clear_error(copy, make, reason):
    model, _ = example(make())
    with pytest.raises(ValueError, match=rf"from_config\(get.*{reason}"):
        copy(model)


@both_copies
@pytest.mark.parametrize("kind", [Doubled, Tenfold])
def test_a_call_of_its_own_is_kept(copy, kind):
    x = keras.Input((4,))
    norm = KERAS()
    norm_of_dense = norm(layers.Dense(3)(x))
    model = (
        Doubled([x, layers.Dense(3), norm])
        if kind is Doubled
        else Tenfold(x, norm_of_dense)
    )
    model, x = example(model)
    copied = copy(model)
    assert type(copied) is kind
    assert_same(copied, model, x)
    if copy is keras_bn.fold:  # Nobody knows what the call does.
        assert len(structure.batch_normalizations(copied)) == 1


@both_copies
def test_a_constructor_of_its_own_leaves_the_layers(copy):
    model, x = example(Chain(3))
    copied = copy(model)
    assert type(copied) is keras.Sequential
    assert_same(copied, model, x)


def test_a_call_and_a_constructor_of_its_own_cannot_get_other_layers():
    model, x = example(TenfoldOfUnits())
    with pytest.raises(ValueError, match="a call and a constructor of its own"):
        keras_bn.convert(model)
    folded = keras_bn.fold(model)
    assert type(folded) is TenfoldOfUnits
    assert_same(folded, model, x)


@both_copies
def test_vocabularies_are_copied(copy):
    words = keras.Input((), dtype="string")
    # Before 3.14 Keras could not load its own weights of tf_idf.
    mode = "tf_idf" if versions.KERAS >= (3, 14) else "count"
    text = layers.TextVectorization(output_mode=mode)
    text.adapt(np.array(["a b", "b c"]))
    letters = layers.StringLookup(output_mode="one_hot")
    letters.adapt(np.array(["a c", "b"]))
    x = layers.Concatenate()([text(words), letters(words)])
    model = keras.Model(words, KERAS()(layers.Dense(3)(x)))
    networks.randomized(model)
    x = tf.constant(["a c", "b", "d"])
    assert_same(copy(model), model, x)


class OfIds(keras.Model):
    """Which Keras cannot build, as it tries with floating point numbers."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(4)
        self.norm = keras.layers.BatchNormalization()
        self.notes = {1: "a", "b": 2}
        self.by_name = {None: keras.layers.Dense(3), 1: self.norm}

    def call(self, ids, training=None):
        x = self.dense(keras.ops.one_hot(ids, 7))
        return self.by_name[None](self.by_name[1](x, training=training))

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize("to", ["keras_bn", "keras"])
def test_a_class_of_its_own_that_was_compiled_is_copied(to):
    ids = np.arange(7)
    model = OfIds()
    model(ids)
    model.compile("sgd", "mse")
    model.fit(ids, np.ones((7, 3)), verbose=0)
    converted = keras_bn.convert(model, to=to)
    assert converted.built
    assert_same(converted, model, ids)


def of_lora():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(6, name="dense")
    x = keras.layers.BatchNormalization(name="norm")(dense(inputs))
    model = keras.Model(inputs, x)
    dense.enable_lora(2)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1, weight.shape))
    return model


@both_copies
def test_what_lora_has_learnt_stays_apart(copy):
    model = of_lora()
    dense, copied = model.get_layer("dense"), copy(model).get_layer("dense")
    for name in ("lora_kernel_a", "lora_kernel_b", "_kernel"):
        np.testing.assert_array_equal(
            getattr(copied, name), getattr(dense, name)
        )


def test_weights_may_be_frozen_one_by_one():
    model = of_lora()
    model.get_layer("norm").gamma.trainable = False
    model.get_layer("dense").bias.trainable = False
    converted = keras_bn.convert(model)
    assert [w.trainable for w in converted.weights] == [
        w.trainable for w in model.weights
    ]


@both_copies
def test_layers_may_have_been_quantized_after_they_were_built(copy):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    model.layers[2].quantize("float8")
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    assert_same(copy(model), model, x)
