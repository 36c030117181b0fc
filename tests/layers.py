# SPDX-License-Identifier: Apache-2.0
"""Layers whose weights differ from all defaults, inputs, and a call of both."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tests.reference import layer as reference

MODES = ("eager", "graph", "xla")
#: Largest relative error where all is float64.
FLOAT64 = 1e-11


class Call(NamedTuple):
    """What a training call gave; the fields that it shares with the oracle."""

    y: Any
    dx: Any
    dgamma: Any
    dbeta: Any


def features(shape, *, axes=None, mean=3.0, seed=0, dtype="float64"):
    """Random features that differ in mean and spread."""
    rng = np.random.default_rng(seed)
    axes = range(len(shape) - 1) if axes is None else axes
    per_feature = [1 if a in axes else n for a, n in enumerate(shape)]
    spread = rng.uniform(0.5, 2, per_feature)
    offset = mean + rng.normal(size=per_feature)
    return (rng.normal(size=shape) * spread + offset).astype(dtype)


def cotangent(shape, *, seed=5):
    return np.random.default_rng(seed).normal(size=shape)


def built(layer, shape, seed=1):
    """Builds a layer and gives it random weights in [0.5, 2]."""
    layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.weights])
    return layer


def compiled(function, mode, signature=None):
    if mode == "eager":
        return function
    return tf.function(
        function, input_signature=signature, jit_compile=mode == "xla"
    )


def call(layer, x, dy, *, mask=None, mode="eager", signature=None):
    """A training call and the gradients of `sum(y * dy)`."""

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
            loss = tf.reduce_sum(y * tf.cast(dy, y.dtype))
        return y, tape.gradient(loss, [x, layer.gamma, layer.beta])

    y, gradients = compiled(run, mode, signature)(tf.convert_to_tensor(x))
    return Call(y, *gradients)


def reduced_axes(layer, rank):
    given = (layer.axis,) if isinstance(layer.axis, int) else layer.axis
    return tuple(a for a in range(rank) if a not in {g % rank for g in given})


def expected_step(layer, x, dy, **options):
    """The oracle of `call` with the layer's weights and options."""
    return reference.step(
        x,
        layer.gamma.numpy(),
        layer.beta.numpy(),
        axes=reduced_axes(layer, np.ndim(x)),
        epsilon=layer.epsilon,
        dy=dy,
        virtual_batch_size=layer.virtual_batch_size,
        unbiased=layer.moving_variance_estimator == "unbiased",
        **options,
    )


def assert_equals_oracle(measured, expected, tolerance=FLOAT64):
    for name in Call._fields:
        got, want = getattr(measured, name), getattr(expected, name)
        assert relative_error(got, want) < tolerance, name


def assert_followed(layer, before, expected, tolerance=FLOAT64):
    """The moving averages took one exponential step from `before`."""
    momentum = layer.momentum
    for name in ("mean", "variance"):
        then = before[f"moving_{name}"]
        want = momentum * then + (1 - momentum) * getattr(expected, name)
        got = getattr(layer, f"moving_{name}").numpy()
        assert relative_error(got, want) < tolerance, name


def statistics(layer):
    """The weights that are not trained, by name."""
    return {w.name: w.numpy() for w in layer.non_trainable_weights}


def relative_error(measured, expected):
    measured, expected = np.asarray(measured), np.asarray(expected)
    assert measured.shape == expected.shape
    if not expected.size:
        return 0.0
    # NaN differs from everything, itself too.
    error = float(np.abs(measured - expected).max())
    return error / (float(np.abs(expected).max()) or 1.0)
