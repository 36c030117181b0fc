# SPDX-License-Identifier: Apache-2.0
"""How tests account for differences between GPUs and CPUs."""

import os

import pytest
import tensorflow as tf

ON_GPU = bool(tf.config.list_physical_devices("GPU"))
on_cpu = pytest.mark.skipif(ON_GPU, reason="holds of a CPU only")


def compute_exactly():
    """Products of float32 in float32, and sums in one order.

    Else a GPU rounds what it multiplies to 10 bits, and adds up in an order
    that changes, so that no test could compare digits.
    """
    if ON_GPU:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        # Not `enable_op_determinism`, with which Keras compiles nothing. With
        # either, all that is random needs a seed.
        os.environ["TF_DETERMINISTIC_OPS"] = "1"
        tf.random.set_seed(0)
