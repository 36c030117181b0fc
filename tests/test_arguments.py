# SPDX-License-Identifier: Apache-2.0
import inspect
import itertools
import json
import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization
from tests import layers

#: Per argument, values that are not its default. Together they must name all.
VALUES = {
    "axis": [1, -2, (1, 2), [-1, 1]],
    "momentum": [0.0, 0.9, 1],
    "epsilon": [0.0, 1e-5],
    "center": [False],
    "scale": [False],
    "beta_initializer": ["ones", keras.initializers.Constant(2.0)],
    "gamma_initializer": ["zeros", keras.initializers.RandomUniform(1, 2, 3)],
    "moving_mean_initializer": [keras.initializers.Constant(3.0)],
    "moving_variance_initializer": [keras.initializers.Constant(4.0)],
    "beta_regularizer": ["l2", keras.regularizers.L1(0.1)],
    "gamma_regularizer": [keras.regularizers.L1L2(0.1, 0.2)],
    "beta_constraint": ["non_neg"],
    "gamma_constraint": [keras.constraints.MaxNorm(1.5)],
    "renorm": [True],
    "renorm_clipping": [{"rmin": 0.5, "rmax": 2.0, "dmax": 1.0}],
    "renorm_momentum": [0.5],
    "synchronized": [True],
    "moving_variance_estimator": ["unbiased"],
    "moving_average": ["cumulative"],
    "virtual_batch_size": [3],
    "activation": ["relu", keras.activations.gelu, keras.layers.ELU(0.5)],
    "keeps": ["output"],
    "single_value": ["error"],
    "name": ["other"],
    "dtype": ["float64", "mixed_float16"],
    "trainable": [False],
}
EXCLUDING = {
    frozenset(pair)
    for pair in [
        ("virtual_batch_size", "synchronized"),
        ("renorm", "virtual_batch_size"),
        ("renorm", "moving_average"),
        ("renorm", "moving_variance_estimator"),
        ("renorm", "keeps"),
    ]
}
OPTIONS = {
    "renorm": True,
    "synchronized": True,
    "virtual_batch_size": 2,
    "moving_average": "cumulative",
    "moving_variance_estimator": "unbiased",
    "activation": "elu",
    "keeps": "output",
}


def test_the_values_tried_here_are_of_every_argument():
    given = set(inspect.signature(BatchNormalization).parameters) - {"kwargs"}
    assert given == set(VALUES) - {"name", "dtype", "trainable"}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in VALUES.items() for value in values],
)
def test_config_round_trip(name, value):
    options = {name: value}
    if name == "renorm_clipping":
        options["renorm"] = True
    layer = BatchNormalization(**options)
    config = layer.get_config()
    # Through JSON, as in a .keras file, and through a pickle.
    stored = keras.saving.serialize_keras_object(layer)
    read = keras.saving.deserialize_keras_object(json.loads(json.dumps(stored)))
    unpickled = pickle.loads(pickle.dumps(config))
    copies = [read, BatchNormalization.from_config(unpickled)]
    for copy in copies:
        assert copy.get_config() == config
        assert dir(copy) == dir(layer)
    for each in (layer, *copies):
        each.build((None, 4, 4, 5))
    for copy in copies:
        for ours, original in zip(copy.weights, layer.weights, strict=True):
            assert ours.name == original.name
            np.testing.assert_array_equal(ours, original)


@pytest.mark.parametrize("pair", list(itertools.combinations(OPTIONS, 2)))
def test_every_pair_of_options_works_or_is_refused(pair):
    options = {name: OPTIONS[name] for name in pair}
    if frozenset(pair) in EXCLUDING:
        with pytest.raises(ValueError, match=r"exclude .* Received"):
            BatchNormalization(**options)
        return
    layer = BatchNormalization(**options)
    x = layers.features((6, 3), dtype="float32")
    before = layers.statistics(layers.built(layer, x.shape))
    y = layer(x, training=True)
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    for name, value in layers.statistics(layer).items():
        assert np.isfinite(value).all()
        assert not np.array_equal(value, before[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 2}, r"\[0, 1\]. Received: momentum=2"),
        ({"momentum": -0.1}, r"\[0, 1\]. Received: momentum=-0.1"),
        ({"momentum": float("nan")}, r"\[0, 1\]. Received: momentum=nan"),
        ({"renorm_momentum": 1.1}, r"Received: renorm_momentum=1.1"),
        ({"axis": 1.5}, r"integer or several. Received: axis=1.5"),
        ({"axis": (1, None)}, r"Received: axis=\(1, None\)"),
        ({"axis": "last"}, r"Received: axis=last"),
        ({"momentum": None}, r"be a number. Received: momentum=None"),
        ({"momentum": [0.9]}, r"Received: momentum=\[0.9\]"),
        ({"momentum": 10**400}, r"be a number. Received: momentum=1000"),
        (
            {"renorm": True, "renorm_clipping": 3},
            r"a dictionary or None. Received: renorm_clipping=3",
        ),
        (
            {"renorm": True, "renorm_clipping": {"rmax": "x"}},
            r"be a number. Received: rmax=x",
        ),
        ({"epsilon": "a"}, r"be a number. Received: epsilon=a"),
        ({"virtual_batch_size": "a"}, r">= 1. Received: virtual_batch_size=a"),
        ({"virtual_batch_size": [2]}, r"Received: virtual_batch_size=\[2\]"),
        ({"epsilon": -1}, r">= 0. Received: epsilon=-1"),
        ({"epsilon": float("inf")}, r"finite .* Received: epsilon=inf"),
        (
            {"moving_variance_estimator": "sample"},
            r"biased, unbiased. Received: moving_variance_estimator=sample",
        ),
        (
            {"moving_average": "plain"},
            r"exponential, cumulative. Received: moving_average=plain",
        ),
        ({"virtual_batch_size": 0}, r"Received: virtual_batch_size=0"),
        ({"virtual_batch_size": -4}, r"Received: virtual_batch_size=-4"),
        ({"virtual_batch_size": 2.5}, r"Received: virtual_batch_size=2.5"),
        ({"virtual_batch_size": True}, r"Received: virtual_batch_size=True"),
        ({"single_value": "ignore"}, r"warn, error. Received: single_value="),
        (
            {"virtual_batch_size": 2, "synchronized": True},
            r"Received: virtual_batch_size=2, synchronized=True",
        ),
    ],
)
def test_a_bad_argument_is_refused_with_the_rule_and_what_came(
    options, message
):
    with pytest.raises(ValueError, match=message):
        BatchNormalization(**options)


@pytest.mark.parametrize("axis", [np.int64(1), np.array([1, 2])])
def test_axes_may_be_numpy_integers(axis):
    layer = BatchNormalization(axis=axis)
    assert json.dumps(layer.get_config()["axis"]) in ("1", "[1, 2]")


@pytest.mark.parametrize("mode", layers.MODES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "swish"])
def test_activation_is_that_of_a_layer_behind(activation, training, mode):
    x, dy = layers.features((6, 3)), layers.cotangent((6, 3))
    function = keras.activations.get(activation)
    results = []
    for own in (activation, None):
        layer = BatchNormalization(activation=own, dtype="float64")
        layers.built(layer, x.shape)

        def run(x, layer=layer, own=own):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=training)
                y = y if own else function(y)
                loss = tf.reduce_sum(y * dy)
            return y, tape.gradient(loss, [x, layer.gamma, layer.beta])

        results.append(layers.compiled(run, mode)(tf.constant(x)))
    (y, gradients), (want_y, want_gradients) = results
    assert layers.relative_error(y, want_y) < layers.FLOAT64
    for got, want in zip(gradients, want_gradients, strict=True):
        assert layers.relative_error(got, want) < layers.FLOAT64


@pytest.mark.parametrize(
    "options",
    [{}, {"virtual_batch_size": 1}, {"moving_average": "cumulative"}],
)
def test_a_single_value_warns_once_and_keeps_the_variance(options):
    layer = layers.built(BatchNormalization(**options), (None, 3))
    batch = 4 if "virtual_batch_size" in options else 1
    x = layers.features((batch, 3), dtype="float32")
    before = layers.statistics(layer)
    with pytest.warns(UserWarning, match="a single value per feature") as seen:
        y = layer(x, training=True)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x, training=True)
    np.testing.assert_allclose(y, np.tile(layer.beta, (batch, 1)))
    np.testing.assert_array_equal(
        layer.moving_variance, before["moving_variance"]
    )
    assert np.all(layer.moving_mean.numpy() != before["moving_mean"])


def test_a_lone_example_in_the_last_virtual_batch_warns():
    layer = layers.built(BatchNormalization(virtual_batch_size=4), (None, 3))
    x = layers.features((9, 3), dtype="float32")
    with pytest.warns(UserWarning, match="virtual batch, with a single value"):
        y = layer(x, training=True)
    np.testing.assert_allclose(y[8], layer.beta)


@pytest.mark.parametrize(
    ("size", "shape", "mask"),
    [
        (None, (1, 2, 3), None),
        (None, (2, 3), None),
        (None, (1, 3), np.array([False])),
        (4, (9, 2, 3), None),
        (4, (8, 3), None),
        (4, (0, 3), None),
    ],
)
@pytest.mark.parametrize("single_value", ["warn", "error"])
def test_several_values_or_none_are_fine(single_value, size, shape, mask):
    layer = BatchNormalization(
        virtual_batch_size=size, single_value=single_value
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(layers.features(shape, dtype="float32"), training=True, mask=mask)
        layer(np.ones((1, *shape[1:]), np.float32), training=False)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(
    ("options", "shape", "mask"),
    [
        ({}, (1, 3), None),
        ({}, (4, 3), [True, False, False, False]),
        ({"virtual_batch_size": 1}, (4, 3), None),
        ({"virtual_batch_size": 4}, (9, 3), None),
        ({"virtual_batch_size": 2}, (4, 3), [True, True, True, False]),
    ],
)
def test_a_single_value_is_an_error_on_request(options, shape, mask, mode):
    layer = layers.built(
        BatchNormalization(single_value="error", **options), (None, 3)
    )
    run = layers.compiled(
        lambda x: layer(
            x, training=True, mask=None if mask is None else np.array(mask)
        ),
        mode,
    )
    x = tf.constant(layers.features(shape, dtype="float32"))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="more than one value per feature"
    ):
        run(x)


def test_a_single_value_unknown_when_built_is_an_error_when_it_runs():
    layer = layers.built(BatchNormalization(single_value="error"), (None, 3))
    run = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec([None, 3])],
    )
    run(tf.ones([2, 3]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than one"):
        run(tf.ones([1, 3]))


def test_under_xla_a_single_value_is_an_error_when_it_is_traced():
    layer = layers.built(BatchNormalization(single_value="error"), (None, 3))
    run = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than one"):
        run(tf.ones([1, 3]))


def test_under_xla_a_single_value_unknown_when_traced_is_no_error():
    """XLA drops assertions; the moving variance stays all the same."""
    layer = layers.built(BatchNormalization(single_value="error"), (None, 3))
    before = layers.statistics(layer)
    run = tf.function(
        lambda x: layer(x, training=True),
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, 3])],
    )
    np.testing.assert_allclose(run(tf.ones([1, 3])), layer.beta.numpy()[None])
    now = layers.statistics(layer)["moving_variance"]
    np.testing.assert_array_equal(now, before["moving_variance"])
