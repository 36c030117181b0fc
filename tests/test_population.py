# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bn
from keras_bn import structure
from keras_bn.statistics import POOLINGS
from tests import networks
from tests.reference import batch_norm, population as reference

KERAS, OURS = networks.NORMS
ORACLES = {"paper": reference.paper, "exact": reference.exact}


def data(shape=(60, 5), *, mean=3.0, seed=0):
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 2, shape[-1])
    return (rng.normal(size=shape) * spread + mean).astype(np.float32)


def batches_of(x, size):
    return [x[i : i + size] for i in range(0, len(x), size)]


def estimate(model, dataset, **options):
    return keras_bn.estimate_population_statistics(
        model, dataset, verbose=0, **options
    )


def statistics(layer):
    return layer.moving_mean.numpy(), layer.moving_variance.numpy()


def assert_statistics(layer, expected, rtol=1e-5):
    for actual, wanted in zip(statistics(layer), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=rtol)


def chain(norm=OURS, dtype="float64"):
    """Two BN layers, one behind the other; dropout must not matter."""
    layers = [
        keras.Input((5,), dtype=dtype),
        norm(name="first", dtype=dtype),
        keras.layers.Dropout(0.5, dtype=dtype),
        keras.layers.Dense(4, "tanh", name="dense", dtype=dtype),
        norm(name="second", dtype=dtype),
    ]
    return networks.randomized(keras.Sequential(layers, name="chain"))


def second_layer_inputs(model, batches):
    """What Algorithm 2's network of training feeds the second layer."""
    first, _, dense, _ = model.layers
    kernel, bias = (np.asarray(w, np.float64) for w in dense.weights)
    return [
        np.tanh(
            batch_norm.forward(
                batch, first.gamma, first.beta, (0,), first.epsilon
            )[0]
            @ kernel
            + bias
        )
        for batch in batches
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 16, 60])
@pytest.mark.parametrize("norm", networks.NORMS)
def test_exact_is_the_variance_of_all_values_at_mean_3000(norm, size):
    """Several layers in one pass, whatever the batch size."""
    image = keras.Input((4, 3, 2))
    flat = norm(name="flat")(keras.layers.Flatten()(image))
    model = keras.Model(
        image,
        [norm(name="maps")(image), flat, norm(axis=1, name="rows")(image)],
    )
    x = data((60, 4, 3, 2), mean=3000.0)
    estimate(model, x, pooling="exact", batch_size=size)
    for name, values, axes in [
        ("maps", x, (0, 1, 2)),
        ("flat", x.reshape(60, -1), (0,)),
        ("rows", x, (0, 2, 3)),
    ]:
        expected = reference.exact([values], axes)
        assert_statistics(model.get_layer(name), expected)


@pytest.mark.parametrize("size", [2, 7, 60])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", networks.NORMS)
def test_both_poolings_equal_their_formula_at_every_depth(norm, pooling, size):
    x = data().astype(np.float64)
    model = chain(norm)
    batches = batches_of(x, size)
    deeper = second_layer_inputs(model, batches)
    changed = estimate(model, x, pooling=pooling, batch_size=size)
    assert changed == ["first", "second"]
    oracle = ORACLES[pooling]
    assert_statistics(model.get_layer("first"), oracle(batches, (0,)))
    assert_statistics(model.get_layer("second"), oracle(deeper, (0,)))


def test_exact_adds_the_spread_of_the_batch_means():
    x = data() + np.linspace(0, 9, 60)[:, np.newaxis]
    results = {}
    for pooling in POOLINGS:
        model = chain()
        estimate(model, x, pooling=pooling, batch_size=4)
        results[pooling] = statistics(model.layers[0])[1]
    assert (results["exact"] > 2 * results["paper"]).all()


def test_float32_statistics_of_a_deep_convolutional_model():
    model = networks.branched()
    networks.randomized(model)
    x = networks.inputs_of(model, 12)
    inputs = keras.Model(model.input, model.get_layer("left").output)(x)
    estimate(model, x, pooling="exact", batch_size=5)
    expected = reference.exact([inputs], (0, 1, 2))
    assert_statistics(model.get_layer("left_bn"), expected, rtol=1e-4)


def generator_of(batches):
    yield from batches


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def tf_dataset(batches):
    x = np.concatenate([batch[0] for batch in batches])
    labels = np.zeros(len(x))
    return tf.data.Dataset.from_tensor_slices((x, labels)).batch(7)


@pytest.mark.parametrize("form", [generator_of, Batches, tf_dataset])
@pytest.mark.parametrize("steps", [None, 3])
def test_every_form_of_data(form, steps):
    x = data()
    batches = batches_of(x, 7)
    model = chain()
    dataset = form([(batch, np.zeros(len(batch))) for batch in batches])
    estimate(model, dataset, steps=steps)
    assert_statistics(model.layers[0], reference.paper(batches[:steps], (0,)))


def test_masked_values_do_not_count():
    x = data((8, 6, 5))
    lengths = np.arange(8) % 4 + 3
    mask = np.arange(6) < lengths[:, None]
    x[~mask] = 0.0
    model = keras.Sequential(
        [keras.Input((6, 5)), keras.layers.Masking(), OURS(name="bn")]
    )
    estimate(model, x, pooling="exact", batch_size=3)
    expected = reference.exact([x[mask]], (0,))
    assert_statistics(model.get_layer("bn"), expected)


@pytest.mark.parametrize("norm", networks.NORMS)
def test_a_shared_layer_pools_all_its_calls(norm):
    x = keras.Input((3,))
    bn = norm(name="bn")
    model = keras.Model(x, bn(bn(x) * 10.0))
    values = data((20, 3))
    estimate(model, values, pooling="exact", batch_size=20)
    first, *_ = batch_norm.forward(values, 1.0, 0.0, (0,), bn.epsilon)
    assert_statistics(bn, reference.exact([values, 10 * first], (0,)), 1e-4)


def test_only_the_layers_that_are_named_change():
    x = data().astype(np.float64)
    model = chain()
    first, second = model.get_layer("first"), model.get_layer("second")
    kept = statistics(first)
    hidden = keras.Model(model.inputs[0], model.get_layer("dense").output)(x)
    changed = estimate(model, x, layers=["second"], pooling="exact")
    assert changed == ["second"]
    assert_statistics(first, kept, rtol=0)
    # The layer that keeps its statistics normalizes with them.
    assert_statistics(second, reference.exact([hidden], (0,)))


def test_frozen_layers_are_estimated_and_stay_frozen():
    model = chain()
    model.trainable = False
    x = data()
    assert estimate(model, x) == ["first", "second"]
    expected = reference.paper(batches_of(x, 32), (0,))
    assert_statistics(model.layers[0], expected)
    assert not any(layer.trainable for layer in model.layers)


@keras.saving.register_keras_serializable(package="tests")
class Counter(keras.layers.Layer):
    """Has a state that every call changes."""

    def build(self, _):
        self.calls = self.add_weight(shape=(), trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def test_nothing_but_the_statistics_changes():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            Counter(),
            OURS(momentum=0.5),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    x = data()
    model.fit(x, x[:, :1], verbose=0)

    def everything():
        variables = [
            *model.variables,
            *model.optimizer.variables,
            *model.metrics_variables,
        ]
        return {v.path: v.numpy() for v in variables if "moving" not in v.path}

    before = everything()
    assert any("seed" in path for path in before)
    estimate(model, x)
    after = everything()
    assert after.keys() == before.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value, path)


@pytest.mark.parametrize(
    "make", [networks.nested, networks.composite, networks.subclassed]
)
@pytest.mark.parametrize("norm", networks.NORMS)
def test_layers_at_any_depth_are_estimated(make, norm):
    model = networks.randomized(make(norm))
    shape = (5, 3) if make is networks.composite else (4,)
    before = [statistics(x) for x in structure.batch_normalizations(model)]
    names = estimate(model, data((32, *shape)))
    layers = structure.batch_normalizations(model)
    assert names == [layer.name for layer in layers]
    for layer, (mean, variance) in zip(layers, before, strict=True):
        assert not np.allclose(layer.moving_mean, mean)
        assert not np.allclose(layer.moving_variance, variance)
        assert "call" not in vars(layer)


def test_steps_are_batches_of_an_array_too():
    """Where Keras would cut all of it into so many."""
    x = data((500, 5))
    model, other = chain(), chain()
    estimate(model, x, steps=2)
    estimate(other, x[:64], batch_size=32)
    for one, two in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_sizes_are_at_least_1(name):
    with pytest.raises(ValueError, match=f"{name} must be None or an integer"):
        estimate(chain(), data(), **{name: 0})


class WithoutModes(keras.Model):
    """Whose call takes no `training`, and which has a layer too many."""

    def __init__(self, norm):
        super().__init__()
        self.dense = keras.layers.Dense(4)
        self.norm, self.unused = norm(), norm()

    def call(self, x):
        return self.norm(self.dense(x))


@pytest.mark.filterwarnings("ignore:`build")
@pytest.mark.parametrize("norm", networks.NORMS)
def test_a_model_need_not_know_of_modes(norm):
    x = data()
    model = WithoutModes(norm)
    model(x)
    assert estimate(model, x) == [model.norm.name]
    batches = batches_of(np.asarray(model.dense(x), np.float64), 32)
    assert_statistics(model.norm, reference.paper(batches, (0,)), rtol=1e-4)


def test_a_call_of_an_instance_stays():
    model = chain()
    layer = model.get_layer("first")
    layer.call = type(layer).call.__get__(layer)
    before = layer.call
    estimate(model, data())
    assert layer.call is before


def test_a_failure_midway_leaves_everything_as_it_was():
    model = chain(KERAS)
    x = data()
    before = model.get_weights()
    expected = model(x).numpy()

    def broken():
        yield (x[:7],)
        raise RuntimeError("disk full")

    with pytest.raises(Exception, match="disk full"):
        estimate(model, broken())
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(model(x), expected)
    assert estimate(model, x) == ["first", "second"]


def test_renorm_goes_on_from_the_estimate():
    model = keras.Sequential([keras.Input((5,)), OURS(renorm=True)])
    (layer,) = model.layers
    x = data()
    estimate(model, x, pooling="exact")
    np.testing.assert_allclose(
        layer.moving_stddev, np.sqrt(x.var(0) + layer.epsilon), rtol=1e-4
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_cumulative_averages_go_on_from_the_estimate(pooling):
    """The next batch of training weighs as much as each of the earlier."""
    layer = OURS(moving_average="cumulative", dtype="float64")
    model = keras.Sequential([keras.Input((5,)), layer])
    x = data().astype(np.float64)
    model(3 * x, training=True)  # is forgotten
    estimate(model, x, pooling=pooling, batch_size=20)
    mean, variance = statistics(layer)
    model(x[:7] + 9, training=True)
    assert_statistics(
        layer,
        (
            (3 * mean + x[:7].mean(0) + 9) / 4,
            (3 * variance + x[:7].var(0)) / 4,
        ),
    )


def test_an_activation_of_the_layer_is_applied():
    x = keras.Input((5,))
    hidden = OURS(activation="relu", name="first")(x)
    model = keras.Model(x, OURS(name="second")(hidden))
    values = data()
    estimate(model, values, pooling="exact", batch_size=60)
    y, *_ = batch_norm.forward(values, 1.0, 0.0, (0,), 1e-3)
    expected = reference.exact([np.maximum(y, 0)], (0,))
    assert_statistics(model.get_layer("second"), expected)


def test_a_gamma_that_the_layer_keeps_from_0_is_used_so():
    x = keras.Input((5,))
    norm = OURS(keeps="output", name="first")
    model = keras.Model(x, OURS(name="second")(norm(x)))
    norm.gamma.assign(np.full(5, 1e-9))
    estimate(model, data(), batch_size=60)
    _, variance = statistics(model.get_layer("second"))
    np.testing.assert_allclose(variance, 1e-6 * 60 / 59, rtol=1e-2)


TWO_REPLICAS = """
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, devices)

import keras
import numpy as np
import keras_bn

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(0).normal(3000.0, 1.0, (64, 5))
with strategy.scope():
    model = keras.Sequential([keras.Input((5,)), keras_bn.BatchNormalization()])
estimate = keras_bn.estimate_population_statistics
estimate(model, x, pooling="exact", verbose=0)
expected = x.astype(np.float32).var(0, dtype=np.float64)
np.testing.assert_allclose(model.layers[0].moving_variance, expected, 1e-5)
with strategy.scope():
    try:
        estimate(model, x)
    except ValueError as error:
        assert str(error).endswith("Received: one with 2 replicas"), error
    else:
        raise AssertionError("replicas would pool their share only")
"""


@pytest.mark.slow
def test_a_replicated_model_is_estimated_outside_the_scope():
    subprocess.run([sys.executable, "-c", TWO_REPLICAS], check=True)


def test_progress_is_shown(capsys):
    x = data()
    keras_bn.estimate_population_statistics(chain(), x, verbose=1)
    assert "2/2" in capsys.readouterr().out


def test_statistics_that_do_not_fit_are_refused():
    norm = keras.layers.BatchNormalization(dtype="float16", name="bn")
    model = keras.Sequential([keras.Input((5,)), norm])
    with pytest.raises(ValueError, match="moving_variance must fit into float"):
        estimate(model, 300 * data())
    np.testing.assert_array_equal(norm.moving_variance, np.ones(5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "mean"}, "paper, exact. Received: pooling=mean"),
        ({"layers": "first"}, "list of names. Received: layers='first'"),
        ({"layers": ["third"]}, "among first, second. Received: third"),
        ({"dataset": np.zeros((0, 5))}, "must have a batch"),
        ({"dataset": None}, "must have a batch.*dataset=None"),
        ({"dataset": []}, r"must have a batch.*dataset=\[\]"),
        ({"batch_size": 1}, "several values .* none for layer first"),
        ({"dataset": np.full((9, 5), np.nan)}, "finite. .* layer first"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    model = chain()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        estimate(model, **{"dataset": data(), **arguments})
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([OURS()], name="new"), "built. Received: new"),
        (
            keras.Sequential(
                [keras.Input((5,)), keras.layers.ReLU()], name="plain"
            ),
            "must have BN layers. Received: plain",
        ),
    ],
)
def test_models_that_have_nothing_to_estimate_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        estimate(model, data())


class Hidden(keras.layers.Layer):
    """Calls a BN layer where its tensors cannot be reached."""

    def __init__(self, where):
        super().__init__()
        self.norm = OURS(name="hidden")
        self.state_size = 5
        self._function = {
            "loop": lambda x, training: self.norm(x, training=training),
            "condition": lambda x, training: keras.ops.cond(
                keras.ops.sum(x) > 0,
                lambda: self.norm(x, training=training),
                lambda: x,
            ),
            "function": tf.function(
                lambda x, training: self.norm(x, training=training)
            ),
            "nowhere": lambda x, **_: x,
        }[where]

    def build(self, shape):
        self.norm.build((shape[0], 5))

    def call(self, x, states=None, training=None):
        y = self._function(x, training=training)
        return y if states is None else (y, states)


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("where", ["loop", "condition", "function", "nowhere"])
def test_a_layer_out_of_reach_is_refused_by_name(where, predicted):
    x = data((20, 3, 5)) if where == "loop" else data()

    def made():
        layer = Hidden(where)
        layer = keras.layers.RNN(layer) if where == "loop" else layer
        return keras.Sequential([keras.Input(x.shape[1:]), layer])

    model, untouched = made(), made()
    if predicted:  # A tf.function then has a trace that is used again.
        model.predict(x, verbose=0)
    with pytest.raises(ValueError, match=r"not in a loop, .* layer hidden"):
        estimate(model, x)
    # Nor has it a trace that normalizes with the batch's statistics.
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), untouched.predict(x, verbose=0)
    )


class Watch(keras.callbacks.Callback):
    """Notes the first layer's statistics as validation meets them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_test_batch_begin(self, batch, logs=None):
        del batch, logs
        self.seen.append(statistics(self.model.layers[0]))


def trained(callbacks, *, epochs=2):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            OURS(name="bn"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = data()
    validation = (x[:20], x[:20, :1])
    model.fit(
        x,
        x[:, :1],
        epochs=epochs,
        validation_data=validation,
        callbacks=callbacks,
        verbose=0,
    )
    return model


def test_the_callback_estimates_before_each_validation():
    watch = Watch()
    x = data()
    callback = keras_bn.PopulationStatistics(x, batch_size=15)
    model = trained([callback, watch])
    expected = reference.paper(batches_of(x, 15), (0,))
    assert len(watch.seen) == 2
    for seen in watch.seen:
        for actual, wanted in zip(seen, expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-5)
    # They stay, so that what is saved is what was validated.
    assert_statistics(model.layers[0], expected)


def test_the_callback_does_not_disturb_training():
    without = trained([])
    watched = trained([keras_bn.PopulationStatistics(data())])
    for a, b in zip(
        without.trainable_variables, watched.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_the_callback_leaves_frozen_layers_unless_they_are_named():
    model = chain()
    model.get_layer("first").trainable = False
    kept = statistics(model.get_layer("first"))
    model.compile("sgd", "mse")
    x, y = data(), np.zeros((60, 4))
    for layers, changed in [(None, False), (["first"], True)]:
        callback = keras_bn.PopulationStatistics(x, layers=layers)
        model.evaluate(x, y, callbacks=[callback], verbose=0)
        mean, _ = statistics(model.get_layer("first"))
        assert np.allclose(mean, kept[0]) is not changed
