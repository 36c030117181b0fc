# SPDX-License-Identifier: Apache-2.0
"""What is run where a GPU is visible; here on whatever there is."""

import collections
import contextlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import operations
from keras_bn import BatchNormalization, ops
from keras_bn.backend import compiling
from keras_bn.backend.algorithm1 import Engine
from tests import devices, layers
from tests.reference import batch_norm as reference


@pytest.fixture(autouse=True)
def _gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: ["GPU"])


def chosen(shape, **options):
    """What runs a tensor of that shape, summed over its first axis."""
    engines = []
    tf.function(
        lambda x: engines.append(compiling.engine(x, (0,))), **options
    ).get_concrete_function(tf.TensorSpec(shape))
    return engines[0]


def test_xla_on_a_gpu_has_expressions_of_its_own():
    """At any size within what it compiles, elsewhere for large tensors."""
    assert chosen((4, 3)) is Engine.PLAIN
    assert chosen((5000, 64)) is Engine.XLA_ON_GPU
    assert chosen((5000, None)) is Engine.PLAIN
    assert chosen((4, 3), jit_compile=True) is Engine.XLA_ON_GPU
    assert chosen((5000, None), jit_compile=True) is Engine.XLA_ON_GPU
    with ops.without_compiling():
        assert chosen((5000, 64), jit_compile=True) is Engine.PLAIN


@devices.on_cpu
def test_without_a_gpu_a_cpu_has_its_own(monkeypatch):
    monkeypatch.undo()
    assert chosen((4, 3), jit_compile=True) is Engine.PLAIN
    assert chosen((5000, 64), jit_compile=True) is Engine.XLA_ON_CPU
    with ops.without_compiling():
        assert chosen((5000, 64)) is Engine.BLOCKS


def test_what_xla_gets_for_a_gpu():
    """Few kernels: two sums in one complex number, forward and backward, no
    axes merged, and what the sample leaves of the mean not subtracted."""

    @tf.function(jit_compile=True)
    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, *_ = ops.batch_norm(x, axes=(0, 1, 2))
        return y, tape.gradient(y, x, output_gradients=dy)

    x = tf.zeros([90, 9, 6, 8])
    hlo = run.experimental_get_compiler_ir(x, x)(stage="hlo")
    found = collections.Counter(
        re.findall(r" = (\w+\[[\d,]*\])\S* ([a-z-]+)\(", hlo)
    )
    assert found["c64[8]", "reduce"] == 2
    assert found["f32[8]", "reduce"] == 1
    assert found["f32[18,3,3,8]", "multiply"] == 1
    assert found["f32[90,9,6,8]", "subtract"] == 5
    gathered = {"[18,9,6,8]", "[18,3,6,8]", "[18,3,3,8]"}
    shapes = {shape[3:] for shape, _ in found if shape.count(",") > 0}
    assert shapes == {"[90,9,6,8]"} | gathered


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((8192, 8), (0,)),
        ((2048, 64), (0,)),
        ((2048, 5000), (0,)),
        ((256, 6, 28, 28), (0, 2, 3)),
        ((85, 9, 8, 7, 1), (0, 1, 2, 3)),
    ],
)
def test_xla_for_a_gpu_gets_no_slices_with_steps(shape, axes, plain):
    """Its Triton kernels would read beyond the tensor.

    Nor those that were traced before it was known who compiles them.
    """
    run = tf.function(lambda x: ops.batch_norm(x, axes=axes)[0])
    x = tf.TensorSpec(shape)
    with ops.without_compiling() if plain else contextlib.nullcontext():
        run.get_concrete_function(x)
        compiled = tf.function(lambda x: run(x), jit_compile=True)
        hlo = compiled.experimental_get_compiler_ir(x)(stage="hlo")
    sample = r" slice\(.* slice=\{\[\d+:\d+" if plain else r" gather\("
    assert re.search(sample, hlo)
    assert not re.search(r" slice=\{[^}]*:\d+:(?!1\])", hlo)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_a_gpu_gets_few_operations_for_unknown_sizes(mean):
    """Each takes the time of a kernel's start, and so does each of Keras'."""
    shape = (40, 9, 9, 3)
    spec = tf.TensorSpec([None, None, None, 3])

    def run_of(layer):
        @tf.function(input_signature=[spec, spec], autograph=False)
        def run(x, dy):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            return y, tape.gradient(y, x, output_gradients=dy)

        return run

    axes = (0, 1, 2)
    x = layers.features(shape, axes=axes, mean=mean, dtype="float32")
    dy = layers.cotangent(shape).astype("float32")
    layer = layers.built(BatchNormalization(), shape)
    twin = layers.built(keras.layers.BatchNormalization(), shape)
    run, run_twin = run_of(layer), run_of(twin)
    ours = operations.of_call(lambda: run(x, dy)).total()
    assert ours < operations.of_call(lambda: run_twin(x, dy)).total()
    y, dx = run(x, dy)
    wide, (gamma, beta) = x.astype("float64"), layer.get_weights()[:2]
    expected = reference.forward(wide, gamma, beta, axes, layer.epsilon)
    assert layers.relative_error(y, expected[0]) < 1e-6
    expected = reference.backward(wide, gamma, axes, layer.epsilon, dy)
    assert layers.relative_error(dx, expected[0]) < 2e-6


def test_a_gpu_gets_zeros_for_the_statistics_of_nothing():
    run = tf.function(
        lambda x: ops.batch_norm(x, axes=(0, 1)),
        input_signature=[tf.TensorSpec([None, None, 3])],
    )
    y, mean, variance = run(tf.zeros([0, 9, 3]))
    assert y.shape == (0, 9, 3)
    assert (mean.numpy() == 0.0).all()
    assert (variance.numpy() == 0.0).all()


def test_a_cpu_named_beside_a_gpu_gets_what_a_cpu_runs():
    x = tf.TensorSpec([5000, 64])
    engines = []

    @tf.function
    def run(x):
        with tf.device("CPU"):
            engines.append(compiling.engine(x, (0,)))
        with tf.device("GPU"):
            engines.append(compiling.engine(x, (0,)))

    run.get_concrete_function(x)
    assert engines == [Engine.XLA_ON_CPU, Engine.XLA_ON_GPU]


def test_volumes_under_vectorized_map():
    """The map adds an axis to the slice that values are centered by."""
    axes = (0, 1, 2, 3)
    x = layers.features((20, 4, 5, 6, 2), axes=axes)
    layer = layers.built(
        BatchNormalization(dtype="float64", scale=False, center=False), x.shape
    )
    y = tf.vectorized_map(
        lambda x: layer(x, training=True), np.stack([x, 2 * x])
    )
    for values, measured in zip((x, 2 * x), y, strict=True):
        std = np.sqrt(values.var(axes) + layer.epsilon)
        expected = (values - values.mean(axes)) / std
        assert layers.relative_error(measured, expected) < 1e-12
