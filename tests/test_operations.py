# SPDX-License-Identifier: Apache-2.0
"""How few operations a layer takes on small tensors and of unknown sizes."""

import keras
import pytest
import tensorflow as tf

from benchmarks import operations
from keras_bn import BatchNormalization
from tests import devices, layers


def of_a_step(layer, shape, sizes):
    """Operations of forward and backward pass, by type."""
    layer = layers.built(layer, shape)

    @tf.function(input_signature=[tf.TensorSpec(sizes)] * 2, autograph=False)
    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x, output_gradients=dy)

    x = tf.ones(shape)
    return operations.of_call(lambda: run(x, x))


@devices.on_cpu
@pytest.mark.parametrize("sizes", [[None, 100], [None, 4, 25], [None, None]])
def test_small_tensors_take_fewer_than_with_keras_own_layer(sizes):
    shape = (60, *([100] if len(sizes) == 2 else [4, 25]))
    ours = of_a_step(BatchNormalization(), shape, sizes)
    theirs = of_a_step(keras.layers.BatchNormalization(), shape, sizes)
    assert ours.total() < theirs.total()


@devices.on_cpu
def test_twelve_fewer_where_the_size_is_known():
    ours = of_a_step(BatchNormalization(), (60, 100), [60, 100])
    theirs = of_a_step(keras.layers.BatchNormalization(), (60, 100), [60, 100])
    assert ours.total() <= theirs.total() - 12
    assert ours["SelectV2"] == 0  # It broadcasts, which takes time.


@devices.on_cpu
def test_only_a_small_tensor_is_read_once_more_to_save_operations():
    small = of_a_step(BatchNormalization(), (160, 100), [160, 100])
    larger = of_a_step(BatchNormalization(), (170, 100), [170, 100])
    assert larger.total() == small.total() + 1


@devices.on_cpu
@pytest.mark.usefixtures("as_large_of_unknown_size")
def test_merging_axes_of_unknown_sizes_takes_few():
    """Those sizes are left to be inferred: only the sample packs its steps."""
    found = of_a_step(BatchNormalization(), (4, 5, 6, 8), [None, None, None, 8])
    assert found["ReadVariableOp"] == 4
    assert found["Pack"] <= 1
    assert found.total() <= 130
