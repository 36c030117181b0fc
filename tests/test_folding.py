# SPDX-License-Identifier: Apache-2.0
import logging
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_bn
from keras_bn import folding, structure
from keras_bn.folding import __main__ as command
from tests import networks
from tests.commands import call

KERAS, OURS = networks.NORMS
layers = keras.layers


@pytest.fixture(autouse=True)
def float64():
    """Folding is exact but for rounding: float64 models show it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def example(model):
    if isinstance(model, networks.Subclassed):
        return np.random.default_rng(1).normal(size=(6, 4))
    return networks.inputs_of(model)


def assert_folds(model, *, left=(), rtol=1e-9):
    """Folds and compares predictions; returns the folded model."""
    networks.randomized(model)
    x, weights = example(model), model.get_weights()
    expected = model.predict(x, verbose=0)
    folded = keras_bn.fold(model)
    np.testing.assert_allclose(
        folded.predict(x, verbose=0), expected, rtol=rtol, atol=1e-9
    )
    names = [x.name for x in structure.batch_normalizations(folded)]
    assert names == list(left)
    # The model itself is as before.
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)
    return folded


def reasons(model):
    return {
        x.layer: x.reason for x in folding.plan(model).decisions if not x.into
    }


def stack(shape, *members):
    return keras.Sequential([keras.Input(shape), *members])


def zero_shift(layer):
    """Makes beta what the mean needs, so that 0 maps to 0."""
    layer.beta.assign(np.zeros(layer.beta.shape))
    layer.moving_mean.assign(np.zeros(layer.beta.shape))


#: Input shape, and a linear layer of each kind, with awkward options.
LINEAR = {
    "Dense": ((4,), lambda **o: layers.Dense(3, **o)),
    "Dense on sequences": ((5, 4), lambda **o: layers.Dense(3, **o)),
    "Conv1D": ((8, 4), lambda **o: layers.Conv1D(6, 3, groups=2, **o)),
    "Conv2D": (
        (7, 6, 4),
        lambda **o: layers.Conv2D(6, (3, 2), dilation_rate=2, groups=2, **o),
    ),
    "Conv2D strided": (
        (7, 6, 4),
        lambda **o: layers.Conv2D(3, 3, strides=2, **o),
    ),
    "Conv3D": ((4, 4, 4, 2), lambda **o: layers.Conv3D(3, 2, **o)),
    "Conv1DTranspose": ((5, 4), lambda **o: layers.Conv1DTranspose(3, 3, **o)),
    "Conv2DTranspose": (
        (4, 4, 4),
        lambda **o: layers.Conv2DTranspose(3, 3, strides=2, **o),
    ),
    "Conv3DTranspose": (
        (3, 3, 3, 2),
        lambda **o: layers.Conv3DTranspose(3, 2, **o),
    ),
    "DepthwiseConv1D": (
        (8, 3),
        lambda **o: layers.DepthwiseConv1D(3, depth_multiplier=2, **o),
    ),
    "DepthwiseConv2D": (
        (6, 6, 3),
        lambda **o: layers.DepthwiseConv2D(3, depth_multiplier=2, **o),
    ),
    "SeparableConv1D": (
        (8, 3),
        lambda **o: layers.SeparableConv1D(4, 3, depth_multiplier=2, **o),
    ),
    "SeparableConv2D": (
        (6, 6, 3),
        lambda **o: layers.SeparableConv2D(4, 3, depth_multiplier=2, **o),
    ),
}
TRANSPOSED = [name for name in LINEAR if "Transpose" in name]
CONVOLUTIONS = [name for name in LINEAR if "Conv" in name]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", LINEAR)
def test_behind_every_linear_layer(kind, use_bias):
    shape, linear = LINEAR[kind]
    norm = OURS(name="bn") if use_bias else KERAS(name="bn")
    model = stack(shape, linear(use_bias=use_bias, name="linear"), norm)
    folded = assert_folds(model)
    assert [layer.name for layer in folded.layers] == ["linear"]
    assert folding.plan(model).decisions == [
        folding.Decision("bn", ("linear",))
    ]


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_behind_a_layer_with_padding(kind):
    shape, linear = LINEAR[kind]
    assert_folds(stack(shape, linear(padding="same"), KERAS()))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", [k for k in LINEAR if k not in TRANSPOSED])
def test_before_every_linear_layer(kind, use_bias):
    shape, linear = LINEAR[kind]
    after = linear(use_bias=use_bias, activation="tanh", name="linear")
    folded = assert_folds(stack(shape, KERAS(name="bn"), after))
    assert [layer.name for layer in folded.layers] == ["linear"]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_before_padding_only_a_map_without_shift_folds(kind, padding):
    """Transposed convolutions pad by nature."""
    shape, linear = LINEAR[kind]
    model = stack(
        shape, KERAS(name="bn"), linear(padding=padding, name="linear")
    )
    networks.randomized(model)
    if padding == "valid" and kind not in TRANSPOSED:
        assert not reasons(model)
        return
    assert "padding of linear" in reasons(model)["bn"]
    zero_shift(model.layers[0])
    x = example(model)
    folded = keras_bn.fold(model)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-9)
    assert structure.batch_normalizations(folded) == []


@pytest.mark.parametrize(
    ("kind", "options", "left"),
    [
        (layers.Conv2D, {"padding": "same", "strides": 2}, []),
        (layers.Conv2DTranspose, {}, []),
        (layers.Conv2DTranspose, {"strides": 2}, ["bn"]),
    ],
)
def test_a_kernel_of_size_1_needs_no_padding(kind, options, left):
    linear = kind(3, 1, **options)
    assert_folds(stack((4, 4, 2), KERAS(name="bn"), linear), left=left)


@pytest.mark.parametrize("use_bias", [True, False])
def test_zero_padding_between(use_bias):
    """BN, padding, linear: as with padding of the linear layer itself."""
    model = stack(
        (4, 4, 2),
        KERAS(name="bn"),
        layers.ZeroPadding2D(1),
        layers.Conv2D(3, 3, use_bias=use_bias),
    )
    assert_folds(model, left=["bn"])
    zero_shift(model.layers[0])
    x = example(model)
    folded = keras_bn.fold(model)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-9)
    assert structure.batch_normalizations(folded) == []


def test_zero_padding_before_a_linear_layer_does_not_matter():
    """Padding, linear, BN."""
    assert_folds(
        stack((4, 4, 2), layers.ZeroPadding2D(1), layers.Conv2D(3, 3), KERAS())
    )


def test_zero_padding_behind_a_linear_layer_does():
    """Linear, padding, BN: the zeros are shifted too."""
    model = stack(
        (4, 4, 2),
        layers.Conv2D(3, 3),
        layers.ZeroPadding2D(1, name="pad"),
        KERAS(name="bn"),
    )
    assert_folds(model, left=["bn"])
    assert "pad (ZeroPadding2D), which it reads" in reasons(model)["bn"]


@pytest.mark.parametrize(
    ("equation", "shape", "output", "bias_axes"),
    [
        ("ab,bc->ac", (4,), 3, "c"),
        ("abc,cd->abd", (5, 4), (5, 3), None),
        ("abc,cd->abd", (5, 4), (5, 3), "bd"),
        ("...x,xy->...y", (5, 4), 3, "y"),
        ("ab...,bc->ac...", (4, 5), 3, "c"),
        ("abc,cde->abde", (5, 4), (5, 2, 3), "e"),
        ("abc,bcd->abd", (5, 4), (5, 3), "d"),
    ],
)
@pytest.mark.parametrize("behind", [True, False])
def test_einsum_dense(equation, shape, output, bias_axes, behind):
    linear = layers.EinsumDense(
        equation, output, bias_axes=bias_axes, name="linear"
    )
    # The axis that the kernel contracts or makes: of ours, BN takes any.
    axis = 1 if equation == "ab...,bc->ac..." else -1
    norm = OURS(axis=axis, name="bn")
    members = [linear, norm] if behind else [norm, linear]
    assert_folds(stack(shape, *members))


def test_einsum_dense_behind_which_several_axes_are_normalized():
    linear = layers.EinsumDense("abc,cde->abde", (5, 2, 3), name="linear")
    assert_folds(stack((5, 4), linear, OURS(axis=(2, 3))))


@pytest.mark.parametrize(
    ("equation", "behind", "reason"),
    [
        ("abc,bd->adc", True, "kernel of linear lacks its axis"),
        ("abc,bd->adc", False, "kernel of linear lacks its axis"),
        ("abc,cd->ad", False, "sums over an axis without weights"),
    ],
)
def test_einsum_dense_that_cannot_take_the_map(equation, behind, reason):
    output = (3, 4)[: len(equation.split("->")[1]) - 1]
    linear = layers.EinsumDense(equation, output, name="linear")
    norm = KERAS(name="bn")
    model = stack((5, 4), *([linear, norm] if behind else [norm, linear]))
    networks.randomized(model)
    assert reason in reasons(model)["bn"]


def test_channels_first_folds_as_channels_last_does():
    """Compared by weights: TensorFlow runs none of it on a CPU."""
    kernels = {}
    for data_format, axis in (("channels_last", -1), ("channels_first", 1)):
        shape = (6, 6, 3) if axis == -1 else (3, 6, 6)
        model = stack(
            shape,
            KERAS(axis=axis),
            layers.Conv2D(4, 3, data_format=data_format),
            KERAS(axis=axis),
        )
        folded = keras_bn.fold(networks.randomized(model))
        assert structure.batch_normalizations(folded) == []
        kernels[data_format] = folded.get_weights()
    for first, last in zip(*kernels.values(), strict=True):
        np.testing.assert_array_equal(first, last)


def test_several_bn_layers_in_a_row():
    model = stack(
        (4,),
        KERAS(name="a"),
        OURS(name="b"),
        layers.Dense(3, name="linear"),
        layers.Dropout(0.5),
        KERAS(name="c", scale=False),
        KERAS(name="d", center=False),
    )
    folded = assert_folds(model)
    assert len(folded.layers) == 2


#: Layers whose outputs have a map that their inputs have.
PASSED = {
    "average": lambda: layers.AveragePooling2D(3, strides=2, padding="same"),
    "global average": lambda: layers.GlobalAveragePooling2D(),
    "global average, kept": lambda: layers.GlobalAveragePooling2D(
        keepdims=True
    ),
    "cropping": lambda: layers.Cropping2D(1),
    "upsampling": lambda: layers.UpSampling2D(2, interpolation="bilinear"),
    "maximum": lambda: layers.MaxPooling2D(3, strides=2, padding="same"),
    "global maximum": lambda: layers.GlobalMaxPooling2D(),
    "dropout": lambda: layers.Dropout(0.5),
    "linear activation": lambda: layers.Activation("linear"),
}


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("kind", PASSED)
def test_layers_that_a_map_passes(kind, behind):
    # Without gamma no slope is below 0. Keras upsamples in float32.
    rtol = 1e-3 if kind == "upsampling" else 1e-9
    norm, between = KERAS(scale=False, name="bn"), PASSED[kind]()
    members = [layers.Conv2D(4, 3), between, norm, layers.ReLU()]
    if not behind:
        members = [norm, between, layers.Dense(4), layers.ReLU()]
    assert_folds(stack((8, 8, 3), *members), rtol=rtol)


def test_a_slope_below_0_does_not_pass_a_maximum():
    norm = KERAS(name="bn")
    model = stack(
        (6, 6, 3), layers.Conv2D(2, 3), layers.MaxPooling2D(name="max"), norm
    )
    networks.randomized(model)
    norm.gamma.assign([-1.0, 1.0])
    assert "max (MaxPooling2D), which it reads" in reasons(model)["bn"]
    norm.gamma.assign([0.0, 1.0])
    assert not reasons(model)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_pooling_knows_its_feature_axis(data_format):
    """The plan alone: TensorFlow pools no channels-first maps on a CPU."""
    first = data_format == "channels_first"
    options = {"data_format": data_format}
    for axis in (1, 3):
        model = stack(
            (5, 5, 5),
            layers.Conv2D(5, 1, **options),
            layers.AveragePooling2D(1, **options),
            KERAS(axis=axis),
        )
        assert bool(reasons(model)) is ((axis == 1) is not first)
    model = stack(
        (5, 5, 5),
        layers.Conv2D(4, 1, **options),
        layers.GlobalAveragePooling2D(**options),
        KERAS(),
    )
    assert not reasons(model)


def test_a_concatenation_is_folded_branch_by_branch():
    x = keras.Input((4,))
    parts = [layers.Dense(n, name=f"linear{n}")(x) for n in (2, 3)]
    y = KERAS(name="bn")(layers.Concatenate()(parts))
    model = keras.Model(x, layers.ReLU()(y))
    assert_folds(model)
    assert folding.plan(model).decisions[0].into == ("linear2", "linear3")


def test_a_concatenation_along_another_axis():
    x = keras.Input((5, 4))
    parts = [layers.Dense(3)(x), layers.Dense(3)(x)]
    model = keras.Model(x, KERAS()(layers.Concatenate(axis=1)(parts)))
    assert_folds(model)


def test_a_branch_that_is_not_linear_blocks_a_concatenation():
    x = keras.Input((4,), name="x")
    parts = [layers.Dense(2)(x), layers.ReLU(name="relu")(layers.Dense(2)(x))]
    model = keras.Model(x, KERAS(name="bn")(layers.Concatenate()(parts)))
    assert_folds(model, left=["bn"])
    assert "relu (ReLU), which it reads, is not linear" in reasons(model)["bn"]


def test_before_several_linear_layers():
    x = keras.Input((4,))
    y = KERAS(name="bn")(x)
    parts = [layers.Dense(3)(y), layers.Dense(3, "relu")(layers.Identity()(y))]
    assert_folds(keras.Model(x, layers.Add()(parts)))


def test_a_frozen_shared_or_observed_neighbour_blocks():
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    seen = layers.Dense(4, name="seen")(x)
    y = [
        KERAS(name="after_shared")(shared(shared(x))),
        KERAS(name="after_seen")(seen),
        KERAS(name="after_active")(layers.Dense(4, "relu", name="active")(x)),
    ]
    model = keras.Model(x, [*y, seen])
    networks.randomized(model)
    found = reasons(model)
    assert "shared (Dense) is called elsewhere too" in found["after_shared"]
    assert "seen (Dense), which it reads, is read" in found["after_seen"]
    assert "active has an activation of its own" in found["after_active"]
    assert "is an output of the model" in found["after_seen"]


def siamese(dense, norm):
    inputs = [keras.Input((4,), name=name) for name in "ab"]
    return keras.Model(inputs, [norm(dense(x)) for x in inputs])


def test_layers_that_are_shared_fold_if_every_call_is_alike():
    dense, norm = layers.Dense(3, name="dense"), KERAS(name="bn")
    model = networks.randomized(siamese(dense, norm))
    folded = keras_bn.fold(model)
    assert len(folded.weights) == 2
    x = [np.ones((2, 4)), np.arange(8.0).reshape(2, 4)]
    for actual, expected in zip(folded(x), model(x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_layers_that_are_shared_in_other_ways_do_not():
    x = keras.Input((4,), name="x")
    dense = layers.Dense(4, name="dense")
    inner = keras.Model(x, KERAS(name="bn")(dense(x)), name="inner")
    model = keras.Model(x, inner(dense(x)))
    reason = "inner/dense (Dense) is called elsewhere too"
    assert reason in reasons(model)["inner/bn"]

    y = KERAS(name="a")(dense(x)), KERAS(name="b")(dense(x))
    reason = "dense (Dense) is called elsewhere too"
    for found in reasons(keras.Model(x, y)).values():
        assert reason in found

    halves = layers.Dense(2, name="halves")
    both = layers.Concatenate()([halves(x), halves(x)])
    model = networks.randomized(keras.Model(x, KERAS(name="bn")(both)))
    reason = "halves (Dense) would need another map in each call"
    assert reason in reasons(model)["bn"]


class Doubled(layers.Wrapper):
    def call(self, x):
        return 2 * self.layer(x)


@pytest.mark.parametrize("held", ["linear", "norm"])
def test_a_layer_that_another_layer_holds_too_stays(held):
    x = keras.Input((5, 3))
    linear, norm = layers.Dense(4, name="linear"), KERAS(name="bn")
    if held == "linear":
        y = layers.TimeDistributed(linear)(x)
    else:
        y = keras.Sequential([layers.Dense(4), Doubled(norm)])(x)
    model = keras.Model(x, [norm(linear(x)), y])
    networks.randomized(model)
    called = "linear (Dense)" if held == "linear" else "bn (BatchNormalization)"
    assert f"{called} is called elsewhere too" in reasons(model)["bn"]
    x = np.random.default_rng(3).normal(size=(2, 5, 3))
    folded = keras_bn.fold(model)
    for actual, expected in zip(folded(x), model(x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_a_tied_kernel_stays():
    class Transposed(layers.Layer):
        def __init__(self, dense, **kwargs):
            super().__init__(**kwargs)
            self.dense = dense

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.dense.kernel))

        def get_config(self):
            dense = keras.saving.serialize_keras_object(self.dense)
            return {**super().get_config(), "dense": dense}

        @classmethod
        def from_config(cls, config):
            dense = keras.saving.deserialize_keras_object(config.pop("dense"))
            return cls(dense, **config)

    x, dense = keras.Input((4,)), layers.Dense(3, name="dense")
    encoded = KERAS(name="bn")(dense(x))
    model = networks.randomized(keras.Model(x, Transposed(dense)(encoded)))
    assert "dense (Dense) is called elsewhere too" in reasons(model)["bn"]
    x = example(model)
    np.testing.assert_allclose(keras_bn.fold(model)(x), model(x), rtol=1e-9)


def test_a_layer_of_another_precision_is_left_alone():
    linear = layers.Dense(3, dtype="float32", name="linear")
    model = stack((4,), linear, KERAS(name="bn"))
    reason = "linear (Dense) computes in float32, it in float64"
    assert reason in reasons(model)["bn"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16"])
def test_low_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = stack((4,), layers.Dense(8), OURS(), layers.ReLU())
    networks.randomized(model)
    folded = keras_bn.fold(model)
    assert folded.layers[0].dtype_policy.name == policy
    x = networks.inputs_of(model)
    actual, expected = (np.asarray(m(x), np.float64) for m in (folded, model))
    np.testing.assert_allclose(actual, expected, atol=0.03 * expected.max())


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
@pytest.mark.parametrize(("variance", "fits"), [(1.0, True), (1e-4, False)])
def test_what_would_not_fit_into_float16_stays(variance, fits, policy):
    keras.config.set_dtype_policy(policy)
    model = stack((4,), layers.Dense(8, name="linear"), OURS(name="bn"))
    linear, norm = model.layers
    linear.kernel.assign(np.full((4, 8), 30.0))
    norm.gamma.assign(np.full(8, 40.0))
    norm.moving_mean.assign(np.full(8, 120.0))
    norm.moving_variance.assign(np.full(8, variance))
    x = np.ones((2, 4), np.float16)
    expected = np.asarray(model(x))
    reason = "the weights of linear would not fit into float16"
    assert fits or reason in reasons(model)["bn"]
    assert fits == (not reasons(model))
    np.testing.assert_allclose(keras_bn.fold(model)(x), expected, atol=40)


@pytest.mark.parametrize("variance", [np.nan, -1e-3, -1.0])
def test_a_layer_without_a_root_stays(variance):
    norm = KERAS(name="bn")
    model = stack((4,), layers.Dense(2), norm)
    norm.moving_variance.assign([variance, 1.0])
    assert reasons(model) == {"bn": "its variance is not positive"}


def test_a_class_derived_from_a_bn_layer_stays():
    class Other(KERAS):
        pass

    found = reasons(stack((4,), layers.Dense(3), Other(name="bn")))
    assert found == {"bn": "its class, Other, is another"}


def test_dictionaries_operations_and_masks():
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = layers.Embedding(7, 4, mask_zero=True)(tokens)
    x = KERAS(name="bn")(layers.Dense(4)(x))
    x = keras.ops.relu(x) + 0.5 * x
    model = keras.Model({"tokens": tokens}, {"y": layers.LSTM(3)(x)})
    networks.randomized(model)
    batch = {"tokens": np.array([[1, 2, 3, 0, 0], [4, 5, 6, 1, 2]])}
    folded = keras_bn.fold(model)
    assert structure.batch_normalizations(folded) == []
    np.testing.assert_allclose(folded(batch)["y"], model(batch)["y"], 1e-9)


def test_arguments_by_name():
    x = keras.Input((4,))
    y = KERAS(name="bn")(inputs=layers.Dense(3)(inputs=x), training=False)
    assert_folds(keras.Model(x, y))


@pytest.mark.parametrize(
    ("make", "left", "reason"),
    [
        (networks.sequential, [], None),
        (networks.branched, ["both_bn"], "left_bn (BatchNormalization), whi"),
        (networks.nested, [], None),
        (networks.shared, [], None),
        (networks.composite, None, "inside a layer without a graph"),
        (networks.subclassed, None, "inside a layer without a graph"),
    ],
)
def test_networks(make, left, reason):
    model = make()
    if left is None:
        left = [x.name for x in structure.batch_normalizations(model)]
    assert_folds(model, left=left)
    found = reasons(model)
    assert len(found) == len(left)
    for text in found.values():
        assert reason in text


def test_names_and_outputs_stay():
    image = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.ReLU(name="relu")(KERAS(name="bn")(x))
    outputs = {"maps": x, "mean": layers.GlobalAveragePooling2D(name="gap")(x)}
    model = keras.Model(image, outputs, name="net")
    folded = keras_bn.fold(networks.randomized(model))
    names = [layer.name for layer in folded.layers]
    assert names == ["image", "conv", "relu", "gap"]
    assert (folded.name, set(folded.output)) == ("net", {"maps", "mean"})
    inputs = networks.inputs_of(model)
    expected, actual = model(inputs), folded(inputs)
    for name in outputs:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-9)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "leaky_relu"])
def test_an_activation_of_the_layer_stays_as_a_layer(activation, kind):
    norm = OURS(activation=activation, name="bn")
    model = stack((4,), layers.Dense(3), norm, layers.Dense(2), KERAS())
    if kind == "functional":
        model = keras.Model(model.inputs, model.outputs)
    # Keras' own constants are float32.
    left = assert_folds(model, rtol=1e-6).get_layer("bn")
    assert type(left) is layers.Activation
    assert left.activation is norm.activation


def test_an_activation_of_the_layer_keeps_its_map_from_those_behind():
    norm = OURS(activation="relu", name="bn")
    model = stack((4,), norm, layers.Dense(3))
    assert_folds(model, left=["bn"])
    assert "it has an activation of its own" in reasons(model)["bn"]


def test_nothing_passes_the_activation_of_a_layer_that_is_folded():
    model = stack(
        (4,),
        layers.Dense(3, name="linear"),
        OURS(activation="relu", name="a"),
        KERAS(name="b"),
    )
    assert_folds(model, left=["b"])
    assert "a (BatchNormalization), which it reads" in reasons(model)["b"]


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_options_of_our_layer_that_inference_knows_nothing_of(kind):
    norms = [
        OURS(virtual_batch_size=2, name="a"),
        OURS(moving_average="cumulative", name="b"),
        OURS(renorm=True, name="c"),
        OURS(axis=(-1,), moving_variance_estimator="unbiased", name="d"),
    ]
    model = stack((4,), *(x for n in norms for x in (layers.Dense(3), n)))
    if kind == "functional":
        model = keras.Model(model.inputs, model.outputs)
    assert_folds(model)


def test_a_gamma_that_the_layer_keeps_from_0_is_folded_as_it_is_used():
    norm = OURS(keeps="output", epsilon=1e-6, name="bn")
    model = networks.randomized(stack((4,), layers.Dense(3), norm))
    norm.gamma.assign([-1e-9, 1e-4, 1.0])
    x = example(model)
    np.testing.assert_allclose(keras_bn.fold(model)(x), model(x), rtol=1e-9)


@pytest.mark.parametrize("training", [True, 1])
@pytest.mark.parametrize("inner", [True, False])
def test_a_layer_that_normalizes_in_inference_too_stays(inner, training):
    x = keras.Input((4,))
    if inner:
        body = stack((4,), layers.Dense(3), KERAS(name="bn"))
        y = body(x, training=training)
    else:
        y = KERAS(name="bn")(layers.Dense(3)(x), training=training)
    model = keras.Model(x, y)
    (reason,) = reasons(networks.randomized(model)).values()
    assert reason == "it is called with training=True"
    assert len(structure.batch_normalizations(keras_bn.fold(model))) == 1


@pytest.mark.parametrize("order", ["first", "second", "around"])
def test_training_reaches_into_a_model_that_is_called_elsewhere_too(order):
    x = keras.Input((4,))
    inner = stack((4,), layers.Dense(4), KERAS(name="bn"))
    training = keras.Model(x, inner(x, training=True))
    inference = keras.Model(x, inner(x))
    model = keras.Model(
        x,
        {
            "first": lambda: [training(x), inference(x)],
            "second": lambda: [inference(x), training(x)],
            "around": lambda: [training(inner(x))],
        }[order](),
    )
    (reason,) = reasons(networks.randomized(model)).values()
    assert reason == "it is called with training=True"


def test_a_kernel_with_lora_weights_is_left_alone():
    keras.config.set_dtype_policy("float32")
    linear = layers.Dense(3, name="linear")
    model = stack((4,), linear, KERAS(name="bn"))
    linear.enable_lora(1)
    assert "linear is quantized or has LoRA weights" in reasons(model)["bn"]


def test_statistics_of_a_trained_network_fold_in_float32():
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        (32, 32, 3), 0.35, weights=None, classes=4, classifier_activation=None
    )
    x = np.random.default_rng(0).normal(size=(16, 32, 32, 3))
    keras_bn.estimate_population_statistics(model, x, verbose=0)
    folded = keras_bn.fold(model)
    assert structure.batch_normalizations(folded) == []
    expected = model.predict(x, verbose=0)
    error = np.abs(folded.predict(x, verbose=0) - expected).max()
    assert error < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("make", [networks.sequential, networks.nested])
def test_a_folded_model_can_be_saved(make, tmp_path):
    folded = keras_bn.fold(networks.randomized(make()))
    folded.save(tmp_path / "folded.keras")
    again = keras.models.load_model(tmp_path / "folded.keras")
    x = networks.inputs_of(folded)
    np.testing.assert_array_equal(again(x), folded(x))


def test_a_plan_says_what_becomes_of_each_layer(caplog):
    model = networks.branched()
    with caplog.at_level(logging.DEBUG, "keras_bn.folding"):
        keras_bn.fold(model)
    assert caplog.messages[0] == "left_bn is folded into left"
    assert caplog.messages[1].startswith("both_bn stays: left_bn (Batch")
    assert [str(x) for x in folding.plan(model).decisions] == caplog.messages


def test_nested_layers_are_told_by_their_path():
    decisions = folding.plan(networks.nested()).decisions
    assert {x.layer: x.into for x in decisions} == {
        "bn": ("dense",),
        "inner/inner_bn": ("inner/inner_dense",),
    }


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match=r"must be built\. Received: new"):
        keras_bn.fold(keras.Sequential([KERAS()], name="new"))


def test_the_command_folds_a_file(tmp_path, capsys):
    model = networks.randomized(networks.branched())
    source, target = tmp_path / "in.keras", tmp_path / "out.keras"
    model.save(source)
    assert call(command.COMMAND, source, target) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("both_bn stays: ")
    assert lines[1] == f"1 of 2 BN layers folded. Written: {target}"
    assert {x.name for x in tmp_path.iterdir()} == {"in.keras", "out.keras"}
    x = networks.inputs_of(model)
    folded = keras.models.load_model(target)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "must be in.keras out.keras. Received: none"),
        (["in.h5", "out.keras"], 2, "Received: in.h5 out.keras"),
        (["in.keras", "out.h5"], 2, "Received: in.keras out.h5"),
        (["missing.keras", "out.keras"], 1, "missing.keras cannot be read: No"),
    ],
)
def test_the_command_refuses_bad_input_in_one_line(
    arguments, code, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert call(command.COMMAND, *arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("contents", "target", "message"),
    [
        (b"text", "out.keras", "in.keras cannot be read: it is no .keras arch"),
        (b"", "out.keras", "in.keras cannot be read: it is no .keras archive"),
        (
            b"PK\5\6" + bytes(18),
            "out.keras",
            "in.keras cannot be .*config.json",
        ),
        (
            None,
            "missing/out.keras",
            "missing/out.keras cannot be written: No s",
        ),
        (
            None,
            "folder.keras",
            "folder.keras is there already. Name another file",
        ),
    ],
)
def test_the_command_fails_in_one_line_and_leaves_nothing(
    contents, target, message, tmp_path, capsys
):
    (tmp_path / "folder.keras").mkdir()
    source = tmp_path / "in.keras"
    networks.sequential().save(source)
    if contents is not None:
        source.write_bytes(contents)
    assert call(command.COMMAND, source, tmp_path / target) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert re.search(message, line)
    assert captured.out == ""
    names = {x.name for x in tmp_path.iterdir()}
    assert names == {"in.keras", "folder.keras"}


def test_the_command_replaces_nothing(tmp_path, capsys):
    source = tmp_path / "in.keras"
    networks.sequential().save(source)
    before = source.read_bytes()
    assert call(command.COMMAND, source, source) == 1
    assert "in.keras is there already" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_the_command_reads_no_pipes(tmp_path, capsys):
    os.mkfifo(tmp_path / "in.keras")
    out = tmp_path / "out.keras"
    assert call(command.COMMAND, tmp_path / "in.keras", out) == 1
    assert "in.keras cannot be read: it is no file" in capsys.readouterr().err


def test_the_command_says_so_of_a_folder(tmp_path, capsys):
    (tmp_path / "in.keras").mkdir()
    target = tmp_path / "out.keras"
    assert call(command.COMMAND, tmp_path / "in.keras", target) == 1
    assert "in.keras cannot be read: it is no file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs_as_a_module():
    command_line = [sys.executable, "-m", "keras_bn.folding"]
    run = subprocess.run(
        command_line, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    last = run.stderr.splitlines()[-1]  # TensorFlow may log before.
    assert last.startswith("folding: the arguments must be in.keras ")
