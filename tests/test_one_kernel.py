# SPDX-License-Identifier: Apache-2.0
"""Inference on images: a single TensorFlow kernel where it is fastest."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import operations
from keras_bn import BatchNormalization, ops
from keras_bn.backend import compiling
from tests import devices, layers, versions

CONVOLUTIONS = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D}


def network(*, kernel=3, shape=(None, 6, 6, 5), dtype="float32", **options):
    """Convolution, batch normalization and ReLU, with weights of no default."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=shape)
    convolution = CONVOLUTIONS[len(shape)]
    x = convolution(5, kernel, padding="same", use_bias=False, dtype=dtype)(
        inputs
    )
    normalized = BatchNormalization(dtype=dtype, **options)
    x = normalized(x)
    model = keras.Model(inputs, keras.layers.ReLU(dtype=dtype)(x))
    rng = np.random.default_rng(1)
    for weight in normalized.weights:
        weight.assign(rng.uniform(0.5, 2, weight.shape))
    return model, normalized


def images(mean=0.0, shape=(8, 6, 6, 5)):
    values = np.random.default_rng(0).normal(mean, 1.0, shape)
    return tf.constant(values.astype("float32"))


def exact(layer, x):
    """What a layer gives at inference, in float64."""
    weights = (np.asarray(w, "float64") for w in layer.get_weights())
    gamma, beta, mean, variance = weights
    std = np.sqrt(variance + layer.epsilon)
    return (np.asarray(x, "float64") - mean) / std * gamma + beta


def ran(model, x):
    run = tf.function(lambda x: model(x, training=False))
    return operations.of_call(lambda: run(x))


@devices.on_cpu
@pytest.mark.parametrize("shape", [(None, 6, 6), (8, 6, 6), (None, None, 6)])
def test_convolution_normalization_and_relu_are_one_kernel(shape):
    model, _ = network(shape=(*shape, 5))
    kinds = set(ran(model, images()))
    assert any("FusedConv2D" in kind for kind in kinds)
    assert not any("BatchNorm" in kind or "Relu" in kind for kind in kinds)
    assert not kinds & {"Sub", "Mul", "BiasAdd", "Rsqrt"}


@devices.on_cpu
@pytest.mark.parametrize("size", [None, 6])
def test_a_convolution_of_sequences_and_normalization_are_one_kernel(size):
    kinds = ran(network(shape=(None, size, 5))[0], images(shape=(8, 6, 5)))
    assert any("FusedConv2D" in kind for kind in kinds)
    assert not any("BatchNorm" in kind for kind in kinds)
    assert not set(kinds) & {"Sub", "Mul", "BiasAdd", "Rsqrt"}


@devices.on_cpu
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_activation_within_is_part_of_it(activation):
    model, _ = network(activation=activation)
    kinds = ran(model, images())
    assert any("FusedConv2D" in kind for kind in kinds)
    assert not any("BatchNorm" in kind for kind in kinds)


@pytest.mark.parametrize("mode", layers.MODES)
def test_it_is_exact_at_a_large_mean(mode):
    model, normalized = network(kernel=1)
    kernel = np.eye(5, dtype="float32")[None, None]
    model.layers[1].set_weights([kernel])  # Which gives its input.
    normalized.moving_mean.assign_add(np.full(5, 1e4))
    x = images(1e4)
    run = layers.compiled(lambda x: model(x, training=False), mode)
    expected = np.maximum(exact(normalized, x), 0)
    assert layers.relative_error(run(x), expected) < 1e-6


def test_where_there_is_a_gpu_it_is_left_alone(monkeypatch):
    """Its kernel is off by 1e-3 where the mean is 1e4 standard deviations."""
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: ["GPU"])
    model, _ = network()
    assert {"Sub", "Mul"} <= set(ran(model, images()))


@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}])
@pytest.mark.parametrize("shape", [(8, 6, 6, 5), (8, 6, 5)])
def test_gradients_are_those_of_the_plain_expressions(shape, options):
    model, normalized = network(shape=(None, *shape[1:]), **options)
    x = images(shape=shape)
    weights = [model.layers[1].kernel, normalized.gamma, normalized.beta]

    def gradients(x):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(model(x, training=False) ** 3)
            first = tape.gradient(loss, [x, *weights])
            again = sum(tf.reduce_sum(g**2) for g in first)
        return *first, *outer.gradient(again, [x, *weights])

    eagerly = gradients(x)
    in_a_graph = tf.function(gradients)(x)
    for got, want in zip(in_a_graph, eagerly, strict=True):
        assert layers.relative_error(got, want) < 1e-4


@pytest.mark.skipif(
    versions.KERAS == (3, 13), reason="Keras 3.13 convolves no empty batch"
)
@pytest.mark.parametrize("shape", [(0, 6, 6, 5), (0, 6, 5)])
def test_an_empty_batch_stays_empty(shape):
    model, _ = network(shape=(None, *shape[1:]))
    run = tf.function(lambda x: model(x, training=False))
    assert run(images(shape=shape)).shape == shape


@pytest.mark.parametrize("case", ["float64", "bfloat16", "jit", "axis"])
def test_where_there_is_no_such_kernel_plain_expressions_are_run(case):
    dtype = case if "float" in case else "float32"
    model, _ = network(dtype=dtype, axis=(1, 3) if case == "axis" else -1)
    x = tf.cast(images(), dtype)
    jit_compile = case == "jit"
    run = tf.function(
        lambda x: model(x, training=False), jit_compile=jit_compile
    )
    graph = run.get_concrete_function(x).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert "FusedBatchNormV3" not in kinds
    plain = np.asarray(tf.cast(model(x, training=False), "float64"))
    tolerance = 2e-2 if case == "bfloat16" else 1e-5
    got = tf.cast(run(x), "float64")
    assert layers.relative_error(got, plain) < tolerance


def graph_of(shape, *, training=False, **options):
    layer = layers.built(BatchNormalization(**options), shape)
    run = tf.function(lambda x: layer(x, training=training))
    return run.get_concrete_function(tf.TensorSpec(shape)).graph.as_graph_def()


def kinds_of(shape, **options):
    return {node.op for node in graph_of(shape, **options).node}


@devices.on_cpu
@pytest.mark.parametrize(
    "shape",
    [
        (8, 64, 64, 3),
        (None, 48, 32, 1),
        (31, 32, 32, 32),
        (None, None, None, 3),
        (2, None, 8, 4),
    ],
)
def test_images_of_a_middle_or_unknown_size_go_through_the_kernel(shape):
    assert "FusedBatchNormV3" in kinds_of(shape)


@pytest.mark.parametrize(
    "shape",
    [
        (8, 64, 63, 3),
        (32, 32, 32, 32),
        (None, 64, 64, 64),
        (0, 64, 64, 3),
        (96, 1024),
        (96, 32, 32),
        (256, 1024),
        (None, 4096),
        (64, None, 64),
    ],
)
def test_others_do_not_without_a_convolution(shape):
    assert "FusedBatchNormV3" not in kinds_of(shape)


@devices.on_cpu
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize(
    "shape", [(160, 1024), (33, 100, 64), (3, 8, 8, 16, 64), (200_000, 1)]
)
def test_other_ranks_of_a_middle_size_do_as_volumes(shape, activation):
    assert "FusedBatchNormV3" in kinds_of(shape, activation=activation)
    with ops.without_compiling():
        assert "FusedBatchNormV3" not in kinds_of(shape, activation=activation)
    layer = layers.built(BatchNormalization(activation=activation), shape)
    layer.moving_mean.assign_add(np.full(shape[-1], 1e4))
    x = images(1e4, shape)

    def call(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=False)
        return y, tape.gradient(y, [x, layer.gamma, layer.beta])

    y, gradients = tf.function(call)(x)
    z = exact(layer, x)
    expected = keras.activations.get(activation)(tf.constant(z))
    assert layers.relative_error(y, expected) < 1e-6
    for got, want in zip(gradients, call(x)[1], strict=True):
        assert layers.relative_error(got, want) < 1e-5


def test_other_ranks_with_the_same_axes_do_not():
    kinds = kinds_of((8, 16, 16, 8, 8), axis=(3, 4))
    assert "FusedBatchNormV3" not in kinds
    x = tf.ones((64, 64, 64))
    run = tf.function(lambda x: ops.apply_statistics(x, 1, 1, axes=(0, 1, 2)))
    assert run(x).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "training", "compiled"),
    [
        ((128, 1024), True, True),
        ((None, 1024), True, True),
        ((None, None, 1024), True, False),
        ((512, 1024), False, True),
        ((None, 8192), False, True),
        ((None, None, 8192), False, False),
    ],
)
def test_xla_compiles_where_few_shapes_come(shape, training, compiled):
    """As it takes half a second for each."""
    graph = graph_of(shape, training=training)
    may = any("_XlaCompile" in node.attr for node in graph.node)
    must = any("_XlaMustCompile" in f.attr for f in graph.library.function)
    assert (may or must) == compiled
    assert may == (compiled and not training and shape[0] is None)


def test_outside_graphs_xla_compiles_for_the_first_shapes_only():
    def is_compiled(shape, axes=(0,)):
        return compiling.engine(tf.zeros(shape), axes).compiles

    assert not is_compiled((2, 64))
    sizes = range(4096, 4096 + compiling._MOST_SHAPES)
    for _ in range(2):
        assert all(is_compiled((size, 64)) for size in sizes)
        assert not is_compiled((5000, 64))
    assert is_compiled((5000, 65))
    assert is_compiled((2**17, 64))
    assert is_compiled((4, 4, 4096, 64), axes=(0, 1, 2))
    run = tf.function(lambda x: compiling.engine(x, (0,)).compiles)
    assert run(tf.zeros((5000, 64)))


@pytest.mark.parametrize("activation", [None, "elu", "silu", "gelu"])
@pytest.mark.parametrize("shape", [(None, 128, 128, 64), (None, 8192)])
def test_what_infers_on_batches_of_any_size_can_be_exported(shape, activation):
    """No function that only XLA runs, no operation that ONNX lacks."""
    graph = graph_of(shape, activation=activation)
    assert not graph.library.function
    assert not {"Expm1", "Log1p"} & {node.op for node in graph.node}


@pytest.mark.parametrize("convolves", [False, True])
@pytest.mark.parametrize("axis", [None, 1, -3])
def test_whatever_is_squeezed_keeps_its_shape(axis, convolves):
    layer = layers.built(BatchNormalization(), (None, None, 3))
    kernel = np.eye(3, dtype="float32")[None, None]

    @tf.function
    def run(x):
        x = tf.nn.conv2d(x, kernel, 1, "SAME") if convolves else x
        return layer(tf.squeeze(x, axis), training=False)

    x = images(shape=(8, 1, 6, 3))
    assert layers.relative_error(run(x), exact(layer, x)[:, 0]) < 1e-6


@pytest.mark.parametrize("axis", [-1, 3])
def test_maps_that_are_squeezed_out_are_no_features(axis):
    layer = layers.built(BatchNormalization(), (None, 8, 6))
    kernel = np.ones((1, 1, 1, 1), "float32")

    @tf.function
    def run(x):
        maps = tf.nn.conv2d(x, kernel, 1, "SAME")
        return layer(tf.squeeze(maps, axis), training=False)

    x = images(shape=(2, 8, 6, 1))
    assert layers.relative_error(run(x), exact(layer, x[..., 0])) < 1e-6


@pytest.mark.parametrize("mode", layers.MODES)
def test_images_of_a_middle_size_are_exact_at_a_large_mean(mode):
    shape = (8, 64, 64, 3)
    layer = layers.built(BatchNormalization(), shape)
    layer.moving_mean.assign_add(np.full(3, 1e4))
    x = np.random.default_rng(0).normal(1e4, 1.0, shape).astype("float32")
    run = layers.compiled(lambda x: layer(x, training=False), mode)
    got = run(tf.constant(x))
    assert layers.relative_error(got, exact(layer, x)) < 1e-6
