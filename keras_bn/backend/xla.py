# SPDX-License-Identifier: Apache-2.0
"""Whether XLA or a GPU runs the surrounding code, and what differs there."""

from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

Tensor = Any  # tf.Tensor is untyped for mypy.


def compiles() -> bool:
    """Whether the current trace is for XLA, by an enclosing `jit_compile`.

    A `tf.function` keeps its trace: one first called outside does not notice
    when it is later called inside.
    """
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def for_gpu() -> bool:
    """Whether a GPU is to run what is called here, as far as that is known.

    A graph may be moved to a CPU later.
    """
    if not tf.config.get_visible_devices("GPU"):
        return False
    here = tf.DeviceSpec.from_string(tf.zeros([]).device).device_type
    return here in {None, "GPU"}


def rounded(mean: Tensor) -> Tensor:
    """The mean, rounded to the same number wherever it is used.

    XLA recomputes cheap values at each use. A mean, there a sum times a factor,
    is then rounded together with the subtraction that follows, and so
    differently at each use. A division, even by 1, is too expensive for that.

    Args:
        mean: float32 or float64.
    """
    if not compiles():
        return mean
    # A 1 that XLA does not know to be one.
    return mean / (1.0 + tf.minimum(tf.abs(mean), 0.0))
