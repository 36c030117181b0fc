# SPDX-License-Identifier: Apache-2.0
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization, moving_averages
from tests import layers

AVERAGES = ("exponential", "cumulative")


def batches(count=5, shape=(6, 3)):
    return [layers.features(shape, mean=3 + s, seed=s) for s in range(count)]


def train(layer, inputs, mode="eager"):
    step = layers.compiled(lambda x: layer(x, training=True), mode)
    for x in inputs:
        step(tf.constant(x))
    return layer.moving_mean.numpy(), layer.moving_variance.numpy()


def cumulative(**options):
    layer = BatchNormalization(
        moving_average="cumulative",
        moving_mean_initializer=keras.initializers.Constant(7.0),
        moving_variance_initializer=keras.initializers.Constant(5.0),
        dtype="float64",
        **options,
    )
    layer.build((None, 3))
    return layer


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_exponential_weighs_the_old_average_by_momentum(momentum, mode):
    layer = BatchNormalization(momentum=momentum, dtype="float64")
    mean, variance = train(layers.built(layer, (None, 3)), batches(), mode)
    _, _, want_mean, want_variance = layers.built(
        BatchNormalization(dtype="float64"), (None, 3)
    ).get_weights()
    for x in batches():
        want_mean = momentum * want_mean + (1 - momentum) * x.mean(0)
        want_variance = momentum * want_variance + (1 - momentum) * x.var(0)
    assert layers.relative_error(mean, want_mean) < layers.FLOAT64
    assert layers.relative_error(variance, want_variance) < layers.FLOAT64


@pytest.mark.parametrize("momentum", [0.1, 0.9, 0.99])
def test_a_value_equal_to_the_average_leaves_it_exactly(momentum):
    average = np.random.default_rng(0).normal(1e3, 1, 1000).astype(np.float32)
    moving = keras.Variable(average)
    usable = np.ones(1000, bool)
    moving_averages.follow(moving, average, usable, momentum=momentum)
    np.testing.assert_array_equal(moving, average)


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize(
    "options", [{"momentum": 0.0}, {"moving_average": "cumulative"}]
)
def test_a_larger_average_leaves_no_rounding_to_what_takes_its_place(
    options, mode
):
    layer = BatchNormalization(
        moving_mean_initializer=keras.initializers.Constant(1e7),
        moving_variance_initializer=keras.initializers.Constant(1e7),
        **options,
    )
    layer.build((None, 3))
    x = layers.features((64, 3), mean=0, dtype="float32") * np.float32(1e-3)
    mean, variance = train(layer, [x], mode)
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-9)
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-5)


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_cumulative_is_the_plain_mean_over_all_batches(momentum, mode):
    """Neither momentum nor the initial values have a part in it."""
    mean, variance = train(cumulative(momentum=momentum), batches(), mode)
    means = np.mean([x.mean(0) for x in batches()], axis=0)
    variances = np.mean([x.var(0) for x in batches()], axis=0)
    assert layers.relative_error(mean, means) < layers.FLOAT64
    assert layers.relative_error(variance, variances) < layers.FLOAT64


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 2])
def test_cumulative_leaves_out_a_feature_that_was_not_finite(position, bad):
    inputs = batches()
    means = np.array([x.mean(0) for x in inputs])
    variances = np.array([x.var(0) for x in inputs])
    counts = np.ones((5, 3), bool)
    inputs[position][2, 1] = bad
    counts[position, 1] = False
    mean, variance = train(cumulative(), inputs)
    for got, values in ((mean, means), (variance, variances)):
        want = np.mean(values, axis=0, where=counts)
        assert layers.relative_error(got, want) < layers.FLOAT64


@pytest.mark.filterwarnings("ignore:.*single value:UserWarning")
def test_cumulative_takes_the_mean_but_no_variance_of_a_single_value():
    inputs = [batches()[0][:1], batches()[1], batches()[2][:0]]
    mean, variance = train(cumulative(), inputs)
    want = (inputs[0].mean(0) + inputs[1].mean(0)) / 2
    assert layers.relative_error(mean, want) < layers.FLOAT64
    assert layers.relative_error(variance, inputs[1].var(0)) < layers.FLOAT64


def test_cumulative_goes_on_after_saving_and_loading(tmp_path):
    def model():
        return keras.Sequential([keras.Input((3,)), cumulative()])

    first, again = model(), model()
    train(first.layers[0], batches()[:2])
    first.save_weights(tmp_path / "half.weights.h5")
    again.load_weights(tmp_path / "half.weights.h5")
    mean, _ = train(again.layers[0], batches()[2:])
    want = np.mean([x.mean(0) for x in batches()], axis=0)
    assert layers.relative_error(mean, want) < layers.FLOAT64


@pytest.mark.parametrize(
    "options",
    [{"momentum": 0.5}, {"moving_average": "cumulative"}, {"renorm": True}],
)
def test_reset_sets_every_moving_statistic_back(options):
    layer = BatchNormalization(
        moving_mean_initializer=keras.initializers.RandomNormal(2.0, seed=1),
        moving_variance_initializer=keras.initializers.Constant(5.0),
        **options,
    )
    layer.build((None, 3))
    gamma, beta, *_ = layer.trainable_weights
    before = [weight.numpy() for weight in layer.non_trainable_weights]
    train(layer, batches())
    for weight, then in zip(layer.non_trainable_weights, before, strict=True):
        assert np.all(weight.numpy() != then)
    gamma.assign([1, 2, 3])
    beta.assign([4, 5, 6])
    layer.reset_moving_statistics()
    for weight, then in zip(layer.non_trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight, then)
    np.testing.assert_array_equal([gamma, beta], [[1, 2, 3], [4, 5, 6]])


def test_cumulative_starts_anew_after_a_reset():
    layer = cumulative()
    train(layer, batches()[:3])
    layer.reset_moving_statistics()
    mean, variance = train(layer, batches()[3:])
    want = np.mean([x.mean(0) for x in batches()[3:]], axis=0)
    assert layers.relative_error(mean, want) < layers.FLOAT64
    want = np.mean([x.var(0) for x in batches()[3:]], axis=0)
    assert layers.relative_error(variance, want) < layers.FLOAT64


def test_a_layer_that_is_not_built_has_nothing_to_reset():
    with pytest.raises(ValueError, match=r"must be built\. Received: new"):
        BatchNormalization(name="new").reset_moving_statistics()


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("size", [2, 3, 50])
def test_unbiased_divides_by_one_less(size, average):
    """Algorithm 2's m/(m-1), for any m that has a variance."""
    layer = BatchNormalization(
        moving_variance_estimator="unbiased",
        moving_average=average,
        momentum=0.0,
        dtype="float64",
    )
    x = layers.features((size, 3))
    _, variance = train(layer, [x])
    assert layers.relative_error(variance, x.var(0, ddof=1)) < layers.FLOAT64


def test_unbiased_counts_the_values_of_a_feature_map():
    layer = BatchNormalization(
        moving_variance_estimator="unbiased", momentum=0.0, dtype="float64"
    )
    x = layers.features((2, 5, 4, 3))
    _, variance = train(layer, [x])
    want = x.var((0, 1, 2), ddof=1)
    assert layers.relative_error(variance, want) < layers.FLOAT64


def test_unbiased_counts_what_the_mask_leaves():
    layer = BatchNormalization(
        moving_variance_estimator="unbiased", momentum=0.0, dtype="float64"
    )
    x, mask = layers.features((9, 3)), np.arange(9) % 3 > 0
    layer(x, training=True, mask=mask)
    want = x[mask].var(0, ddof=1)
    got = layer.moving_variance
    assert layers.relative_error(got, want) < layers.FLOAT64


def test_the_estimator_does_not_change_what_the_batch_is_normalized_with():
    x = layers.features((4, 3))
    biased, unbiased = (
        BatchNormalization(moving_variance_estimator=name, dtype="float64")
        for name in ("biased", "unbiased")
    )
    np.testing.assert_array_equal(
        biased(x, training=True), unbiased(x, training=True)
    )
