# SPDX-License-Identifier: Apache-2.0
import keras
import numpy as np
import pytest

from keras_bn import BatchNormalization, models


def weights_of(model):
    return {w.path: np.asarray(w) for w in model.weights}


@pytest.mark.parametrize(
    ("norm", "trainable"),
    [
        # Weights, then gamma and beta where the bias is dropped.
        ("batch", 784 * 100 + 2 * 100 * 100 + 3 * 200 + 1010),
        ("keras", 784 * 100 + 2 * 100 * 100 + 3 * 200 + 1010),
        ("none", 784 * 100 + 2 * 100 * 100 + 3 * 100 + 1010),
    ],
)
def test_the_network_of_section_4_1(norm, trainable):
    model = models.mlp(norm=norm)
    count = sum(np.prod(w.shape) for w in model.trainable_weights)
    assert count == trainable
    assert model.output_shape == (None, 10)
    for i in (1, 2, 3):
        layer = model.get_layer(f"hidden{i}")
        assert layer.activation is keras.activations.sigmoid
        assert model.get_layer(f"hidden{i}_linear").use_bias == (norm == "none")


def test_the_norms_differ_in_nothing_but_the_norm():
    ours, theirs, none = (
        weights_of(models.mlp(norm=norm)) for norm in ("batch", "keras", "none")
    )
    assert list(ours) == list(theirs)
    for path, value in none.items():
        if path.endswith("kernel"):
            np.testing.assert_array_equal(value, ours[path])
            np.testing.assert_array_equal(value, theirs[path])
    layer = models.mlp().get_layer("hidden1_norm")
    assert isinstance(layer, BatchNormalization)


def test_weights_are_small_gaussians_of_their_own():
    weights = weights_of(models.mlp(weight_stddev=0.02, seed=3))
    kernels = [w for path, w in weights.items() if path.endswith("kernel")]
    assert len(kernels) == 4
    for kernel in kernels:
        assert kernel.std() == pytest.approx(0.02, rel=0.1)
    assert not np.array_equal(kernels[1], kernels[2])
    other = weights_of(models.mlp(weight_stddev=0.02, seed=4))
    assert not np.array_equal(
        weights["hidden1_linear/kernel"], other["hidden1_linear/kernel"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "layer"}, "batch, keras, none. Received: norm=layer"),
        ({"norm": "per_activation"}, "none. Received: norm=per_activation"),
        ({"width": 0}, "width must be >= 1. Received: width=0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.mlp(**arguments)
