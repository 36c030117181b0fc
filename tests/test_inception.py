# SPDX-License-Identifier: Apache-2.0
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import models, recipes, training
from keras_bn.models.inception import BLOCKS, LITERAL_BLOCKS, STEM, output_sizes
from keras_bn.models.local_response import LocalResponseNormalization


def trainable(model):
    return sum(math.prod(w.shape) for w in model.trainable_weights)


def counted(table, *, classes=1000):
    """Kernels of the convolutions, their channels, and the classifier's."""
    first, reduce, last = STEM
    shapes = [(7 * 7 * 3, 8), (3 * 8, first), (first, reduce)]
    shapes.append((9 * reduce, last))
    channels, inputs = [first, reduce, last], last
    for block in table:
        branches = [(1, inputs, block.single)] if block.single else []
        for sizes in (block.three, block.double):
            branches.append((1, inputs, sizes[0]))
            branches.append((9, sizes[0], sizes[1]))
        branches.append((9, block.double[1], block.double[1]))
        if block.projection:
            branches.append((1, inputs, block.projection))
        shapes += [(taps * into, out) for taps, into, out in branches]
        channels += [out for _, _, out in branches]
        inputs = block.channels(inputs)
    kernels = sum(into * out for into, out in shapes)
    return kernels, channels, inputs * classes + classes


def test_the_table_has_the_parameters_of_the_network():
    kernels, channels, classifier = counted(BLOCKS)
    assert (len(channels), sum(channels)) == (69, 9952)
    assert kernels == 10_143_384
    assert kernels + 2 * sum(channels) + classifier == 11_188_288
    assert trainable(models.inception()) == 11_188_288
    kernels, channels, classifier = counted(LITERAL_BLOCKS)
    literal = models.inception(norm="none", table="literal")
    assert kernels + sum(channels) + classifier == 11_268_512
    assert trainable(literal) == 11_268_512


def test_a_recipe_names_its_table():
    recipe = recipes.get("bn_baseline").replace(width=0.5, image_size=16)
    for table, channels in (("exact", 288), ("literal", 304)):
        model = training.build_model(
            recipe.replace(table=table), input_shape=(16, 16, 3), classes=3
        )
        assert dict(output_sizes(model))["4d"] == (8, 8, channels)


def test_with_the_auxiliary_head_it_has_those_that_the_paper_prints():
    model = models.inception(auxiliary_head=True)
    assert trainable(model) == pytest.approx(13.6e6, rel=0.01)
    assert [output.shape[-1] for output in model.outputs] == [1000, 1000]


@pytest.mark.parametrize(
    ("table", "channels"), [("exact", 576), ("literal", 608)]
)
def test_the_printed_sizes(table, channels):
    sizes = dict(output_sizes(models.inception(table=table)))
    assert sizes["conv1"] == (112, 112, 64)
    assert sizes["3a"] == (28, 28, 256)
    assert sizes["3b"] == (28, 28, 320)
    assert sizes["3c"] == (14, 14, 576)
    assert sizes["4b"] == (14, 14, 576)
    assert sizes["4c"] == sizes["4d"] == (14, 14, channels)
    assert sizes["4e"] == (7, 7, 448 + channels)
    assert sizes["5b"] == (7, 7, 1024)


@pytest.mark.parametrize(
    ("size", "maps"), [(16, 16), (32, 16), (64, 16), (128, 16), (224, 28)]
)
def test_the_stem_suits_the_size_of_the_images(size, maps):
    model = models.inception(image_size=size, width=0.05, classes=3)
    sizes = dict(output_sizes(model))
    assert sizes["3a"][:2] == (maps, maps)
    assert sizes["5b"][:2] == (maps // 4, maps // 4)


@pytest.mark.parametrize(
    ("norm", "activation"),
    [
        ("batch", "relu"),
        ("batch", "sigmoid"),
        ("keras", "relu"),
        ("per_activation", "relu"),
        ("none", "relu"),
    ],
)
def test_every_weight_gets_a_gradient(norm, activation):
    model = models.inception(
        classes=2,
        image_size=16,
        width=0.03,
        norm=norm,
        activation=activation,
        local_response_normalization=norm == "none",
        auxiliary_head=False,
        dropout=0.1,
        l2=1e-5,
    )
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3))
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        loss = tf.reduce_mean(logits**2) + sum(model.losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert np.isfinite(loss)
    for weight, gradient in zip(
        model.trainable_weights, gradients, strict=True
    ):
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient) or norm == "none", weight.path


def test_networks_start_from_the_same_weights_whatever_normalizes():
    options = {"classes": 3, "image_size": 16, "width": 0.05}
    kernels = [
        {
            layer.name: np.asarray(layer.weights[0])
            for layer in models.inception(norm=norm, **options).layers
            if layer.name.endswith("_linear")
        }
        for norm in ("batch", "keras", "none")
    ]
    for name, kernel in kernels[0].items():
        for others in kernels[1:]:
            np.testing.assert_array_equal(kernel, others[name])
    different = {kernel.sum() for kernel in kernels[0].values()}
    assert len(different) == len(kernels[0])


def test_per_activation_normalization_has_a_scale_for_each_place():
    model = models.inception(
        classes=3, image_size=16, width=0.05, per_activation_blocks=("5b",)
    )
    assert model.get_layer("5b_1x1").gamma.shape[:2] == (4, 4)
    assert len(model.get_layer("5a_1x1").gamma.shape) == 1


def test_a_larger_start_multiplies_the_kernels():
    one, two = (
        models.inception(
            classes=3, image_size=16, width=0.05, initial_weight_scale=scale
        )
        .get_layer("4a_3x3_linear")
        .kernel
        for scale in (1.0, 2.0)
    )
    np.testing.assert_allclose(2 * np.asarray(one), two, rtol=1e-6)


def test_local_response_normalization_is_the_formula():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 7)).astype(np.float32)
    expected = np.empty_like(x)
    for channel in range(7):
        near = x[..., max(0, channel - 2) : channel + 3] ** 2
        divisor = (1 + 1e-4 / 5 * near.sum(-1)) ** 0.75
        expected[..., channel] = x[..., channel] / divisor
    result = LocalResponseNormalization()(x)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_it_is_saved_and_loaded(tmp_path):
    model = models.inception(
        classes=3,
        image_size=16,
        width=0.03,
        local_response_normalization=True,
    )
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), again.predict(x, verbose=0)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "Received: classes=0"),
        ({"image_size": 8}, "Received: image_size=8"),
        ({"width": 0.0}, "Received: width=0.0"),
        ({"width": math.nan}, "Received: width=nan"),
        ({"table": "best"}, "one of exact, literal. Received: table=best"),
        ({"dropout": 1.0}, "Received: dropout=1.0"),
        ({"norm": "layer"}, "Received: norm=layer"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.inception(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_activation_blocks": ("5b", "9z")}, "one of 3a, .*: .*=9z"),
        (
            {"per_activation_blocks": ("5b",), "norm": "none"},
            "need norm=batch.*=5b, norm=none",
        ),
        ({"initial_weight_scale": -1.0}, "initial_weight_scale=-1.0"),
        ({"table": "printed"}, "one of exact, literal"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.inception(image_size=16, width=0.03, **arguments)
