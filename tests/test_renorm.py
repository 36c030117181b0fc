# SPDX-License-Identifier: Apache-2.0
import keras
import numpy as np
import pytest

from keras_bn import BatchNormalization
from tests import layers, versions
from tests.reference import layer as reference

CLIPPINGS = {
    "none": {},
    "rmax": {"rmax": 1.1},
    "rmin": {"rmin": 0.9},
    "dmax": {"dmax": 0.3},
    "all": {"rmin": 0.8, "rmax": 1.2, "dmax": 0.5},
}
WEIGHTS = [
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
    "moving_stddev",
    "renorm_mean",
    "renorm_stddev",
]


def renorm(make=BatchNormalization, *, clipping=None, shape=(8, 3), **options):
    return layers.built(
        make(
            renorm=True,
            renorm_clipping=CLIPPINGS["all"] if clipping is None else clipping,
            momentum=0.9,
            renorm_momentum=0.7,
            **options,
        ),
        shape,
    )


def weights_of(layer):
    return {weight.name: weight.numpy() for weight in layer.weights}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("clipping", "mode"),
    [
        *((name, "eager") for name in CLIPPINGS),
        ("all", "graph"),
        ("all", "xla"),
    ],
)
def test_three_steps_equal_the_reference(clipping, masked, mode):
    layer = renorm(clipping=CLIPPINGS[clipping], dtype="float64")
    for seed in range(3):
        x = layers.features((8, 3), mean=1.0, seed=seed)
        dy = layers.cotangent((8, 3), seed=seed)
        mask = np.arange(8) % 3 > 0 if masked else None
        expected, after = reference.renorm_step(
            x,
            weights_of(layer),
            epsilon=layer.epsilon,
            momentum=layer.momentum,
            renorm_momentum=layer.renorm_momentum,
            clipping=CLIPPINGS[clipping],
            dy=dy,
            mask=mask[:, None] if masked else None,
        )
        measured = layers.call(layer, x, dy, mask=mask, mode=mode)
        for got, want in zip(measured, expected, strict=True):
            assert layers.relative_error(got, want) < layers.FLOAT64
        for name, want in after.items():
            got = getattr(layer, name)
            assert layers.relative_error(got, want) < layers.FLOAT64, name


@versions.needs_renorm
def test_the_weights_are_those_of_keras_in_the_same_order():
    layer, theirs = renorm(), renorm(keras.layers.BatchNormalization)
    assert [weight.name for weight in layer.weights] == WEIGHTS
    assert [weight.name for weight in theirs.weights] == WEIGHTS


@versions.needs_renorm
@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("shape", [(8, 3), (4, 5, 2, 3)])
def test_three_steps_equal_those_of_keras(shape, clipping):
    ours, theirs = (
        renorm(make, clipping=CLIPPINGS[clipping], shape=shape)
        for make in (BatchNormalization, keras.layers.BatchNormalization)
    )
    for seed in range(3):
        x = layers.features(shape, mean=1.0, seed=seed, dtype="float32")
        dy = layers.cotangent(shape, seed=seed)
        for got, want in zip(
            layers.call(ours, x, dy), layers.call(theirs, x, dy), strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    for got, want in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    x = layers.features(shape, seed=9, dtype="float32")
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_without_clipping_training_gives_what_the_moving_statistics_give():
    """The purpose of the correction: it leaves nothing of the batch."""
    layer = renorm(clipping={}, dtype="float64")
    layer.renorm_mean.assign(layer.moving_mean)
    layer.renorm_stddev.assign(
        np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    )
    x = layers.features((8, 3))
    inference = layer(x, training=False)
    training = layer(x, training=True)
    assert layers.relative_error(training, inference) < layers.FLOAT64


def test_corrections_clipped_to_nothing_leave_plain_batch_normalization():
    layer = renorm(clipping={"rmin": 1, "rmax": 1, "dmax": 0}, dtype="float64")
    x, dy = layers.features((8, 3)), layers.cotangent((8, 3))
    expected = layers.expected_step(layer, x, dy)
    layers.assert_equals_oracle(layers.call(layer, x, dy), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_parameters_may_be_narrow(dtype):
    narrow, wide = renorm(dtype=dtype), renorm(dtype="float32")
    x = keras.ops.cast(layers.features((8, 3), mean=1.0), dtype)
    for layer in (narrow, wide):
        layer.gamma.assign([0.5, 1.0, 2.0])
        layer.beta.assign([-1.0, 0.0, 1.0])
    y = narrow(x, training=True)
    assert y.dtype == dtype
    expected = wide(keras.ops.cast(x, "float32"), training=True)
    error = np.abs(keras.ops.cast(y, "float32") - expected).max()
    assert error < {"float16": 4e-3, "bfloat16": 4e-2}[dtype]


@pytest.mark.parametrize("seeds", ["fixed", "none", "generator"])
def test_random_initial_statistics_agree_with_each_other(seeds):
    """The deviation starts from the root of the variance that was drawn."""
    seed = {
        "fixed": 4,
        "none": None,
        "generator": keras.random.SeedGenerator(4),
    }[seeds]
    layer = BatchNormalization(
        renorm=True,
        moving_mean_initializer=keras.initializers.RandomNormal(seed=seed),
        moving_variance_initializer=keras.initializers.RandomUniform(
            1, 2, seed=seed
        ),
    )
    layer.build((None, 5))
    for _ in range(2):
        root = np.sqrt(layer.moving_variance.numpy())
        np.testing.assert_allclose(layer.moving_stddev, root, rtol=1e-6)
        np.testing.assert_allclose(layer.renorm_stddev, root, rtol=1e-6)
        np.testing.assert_array_equal(layer.renorm_mean, layer.moving_mean)
        assert len(set(root)) == 5
        layer.reset_moving_statistics()


@pytest.mark.parametrize(
    ("clipping", "message"),
    [
        ({"rmax": 2, "tmax": 1}, r"invalid keys .*'tmax': 1"),
        ({"rmax": 0.5, "rmin": 2}, r"Received: rmax=0.5, rmin=2"),
        ({"dmax": -1}, r"Received: dmax=-1"),
        ({"rmin": -1}, r"Received: rmin=-1"),
        ({"rmax": float("nan")}, r"Received: rmax=nan"),
    ],
)
def test_impossible_limits_are_refused(clipping, message):
    with pytest.raises(ValueError, match=message):
        BatchNormalization(renorm=True, renorm_clipping=clipping)
