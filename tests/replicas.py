# SPDX-License-Identifier: Apache-2.0
"""Training calls of the layer on two replicas, written to an .npz file.

    python -m tests.replicas FILE

It needs a process of its own, because TensorFlow allows logical devices only
before it has started, and one strategy per process.
"""

import dataclasses
import sys
import warnings
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import mirrored_run, mirrored_strategy

from keras_bn import BatchNormalization
from tests import layers


@dataclasses.dataclass(frozen=True)
class Case:
    """One training call; `split` says how many examples each replica has."""

    split: tuple[int, int] = (4, 4)
    dtype: str = "float64"
    masked: bool = False
    mean: float = 3.0
    sizes: tuple[int, ...] = (2, 3)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shape(self):
        return (sum(self.split), *self.sizes)

    def layer(self, *, synchronized):
        layer = BatchNormalization(
            synchronized=synchronized, dtype=self.dtype, **self.options
        )
        return layers.built(layer, (None, *self.sizes))

    def inputs(self):
        """`x`, `dy` and the mask (all true if there is none) of all."""
        x = layers.features(self.shape, mean=self.mean, dtype=self.dtype)
        dy = layers.cotangent(self.shape).astype(self.dtype)
        mask = np.random.default_rng(2).random(self.shape[:-1]) < 0.6
        return x, dy, mask if self.masked else np.ones_like(mask)


SPLITS = {
    "halves": (4, 4),
    "unequal": (6, 2),
    "empty_replica": (5, 0),
    "one_value_each": (1, 1),
    "empty": (0, 0),
}
CASES = {
    **{
        f"{split}-{dtype}": Case(sizes, dtype, sizes=(3,))
        for split, sizes in SPLITS.items()
        for dtype in ("float32", "float64")
    },
    "feature_maps": Case(sizes=(3, 2, 3)),
    "masked": Case(masked=True),
    "masked-unequal": Case((2, 7), masked=True),
    "unbiased": Case(options={"moving_variance_estimator": "unbiased"}),
    "cumulative": Case(options={"moving_average": "cumulative"}),
    "cumulative-empty_replica": Case(
        (5, 0), options={"moving_average": "cumulative"}
    ),
    "renorm": Case(options={"renorm": True}),
    "far_16k": Case((8, 8), "float32", mean=1e4, sizes=(32, 32, 2)),
    "far_524k": Case((16, 16), "float32", mean=1e4, sizes=(128, 128, 2)),
}

ALSO_UNSYNCHRONIZED = ("unequal-float64", "empty_replica-float64", "masked")
EMPTY_UNSYNCHRONIZED = "cumulative-empty_replica"


def run(strategy, case, *, synchronized):
    """One training call on all replicas; what each has, put together."""
    with strategy.scope():
        layer = case.layer(synchronized=synchronized)
    cuts = np.cumsum(case.split)[:-1]
    parts = list(zip(*(np.split(a, cuts) for a in case.inputs()), strict=True))

    def per_replica(position):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                parts[context.replica_id_in_sync_group][position]
            )
        )

    def step(x, dy, mask):
        call = layers.call(layer, x, dy, mask=mask if case.masked else None)
        return call._asdict()

    results = tf.function(strategy.run)(
        step, tuple(per_replica(i) for i in range(3))
    )
    local = {
        n: strategy.experimental_local_results(r) for n, r in results.items()
    }
    for variable in layer.non_trainable_variables:
        first, *others = strategy.experimental_local_results(variable.value)
        assert all(np.array_equal(first, other) for other in others)
    return {
        "y": np.concatenate(local["y"]),
        "dx": np.concatenate(local["dx"]),
        "dgamma": np.sum(local["dgamma"], axis=0),
        "dbeta": np.sum(local["dbeta"], axis=0),
        **layers.statistics(layer),
    }


def second_order(strategy, case):
    """Gradient in `x` of the squared norm of the gradient in `x`."""
    with strategy.scope():
        layer = case.layer(synchronized=True)
    replicas = strategy.num_replicas_in_sync
    parts = [np.array_split(a, replicas) for a in case.inputs()[:2]]
    x, dy = (
        strategy.experimental_distribute_values_from_function(
            lambda context, part=part: tf.constant(
                part[context.replica_id_in_sync_group]
            )
        )
        for part in parts
    )

    def step(x, dy):
        with tf.GradientTape() as outer:
            outer.watch(x)
            first = layers.call(layer, x, dy).dx
            penalty = tf.reduce_sum(first**2)
        return outer.gradient(penalty, x)

    result = tf.function(strategy.run)(step, (x, dy))
    return np.concatenate(strategy.experimental_local_results(result))


def fit(strategy, *, synchronized):
    """Three epochs of a model; its weights."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((5,)),
                keras.layers.Dense(4, use_bias=False),
                BatchNormalization(synchronized=synchronized),
                keras.layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.SGD(0.1), "mse")
    x = layers.features((24, 5), dtype="float32")
    model.fit(x, x[:, :1], batch_size=8, epochs=3, shuffle=False, verbose=0)
    return {str(i): w.numpy() for i, w in enumerate(model.weights)}


def error_in_a_condition(strategy):
    """What training within a condition of the graph raises."""
    with strategy.scope():
        layer = BatchNormalization()
        layer.build((None, 3))

    def step(x):
        return tf.cond(
            tf.size(x) > 0, lambda: layer(x, training=True), lambda: x
        )

    try:
        tf.function(strategy.run)(step, (tf.ones((4, 3)),))
    except RuntimeError as error:
        return str(error)
    return ""


def one_compiled_replica(*, synchronized):
    """A training call within XLA, where TensorFlow takes the CPU for a GPU."""
    gpu = {"_is_gpu_device": lambda _: True}
    with (
        mock.patch.multiple(mirrored_run, **gpu),
        mock.patch.multiple(mirrored_strategy, **gpu),
    ):
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with strategy.scope():
            layer = CASES["feature_maps"].layer(synchronized=synchronized)
        step = tf.function(
            lambda *call: layers.call(layer, *call), jit_compile=True
        )
        inputs = map(tf.constant, CASES["feature_maps"].inputs()[:2])
        tf.function(strategy.run)(step, tuple(inputs))
    return layers.statistics(layer)


def main(path):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    warnings.simplefilter("error", UserWarning)
    results = {}
    for name, case in CASES.items():
        for key, value in run(strategy, case, synchronized=True).items():
            results[f"{name}/{key}"] = value
    for name in (*ALSO_UNSYNCHRONIZED, EMPTY_UNSYNCHRONIZED):
        values = run(strategy, CASES[name], synchronized=False)
        for key, value in values.items():
            results[f"unsynchronized/{name}/{key}"] = value
    results["second_order/x"] = second_order(strategy, CASES["feature_maps"])
    for key, value in fit(strategy, synchronized=True).items():
        results[f"fit/{key}"] = value
    for synchronized in (True, False):
        values = one_compiled_replica(synchronized=synchronized)
        for key, value in values.items():
            results[f"one_compiled/{synchronized}/{key}"] = value
    central = tf.distribute.experimental.CentralStorageStrategy(
        ["CPU:0", "CPU:1"], "CPU:0"
    )
    values = run(central, CASES["feature_maps"], synchronized=True)
    for key, value in values.items():
        results[f"central_storage/{key}"] = value
    results["in_a_condition/error"] = error_in_a_condition(strategy)
    np.savez(path, **results)


if __name__ == "__main__":
    main(sys.argv[1])
