# SPDX-License-Identifier: Apache-2.0
"""Whether XLA compiles the code around, and what has to be otherwise there."""

from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

Tensor = Any  # tf.Tensor is untyped for mypy.


def compiles() -> bool:
    """Whether what is traced now is for XLA: a `jit_compile` further out.

    A `tf.function` keeps the trace that it has: one that was called outside
    first and then is within does not know.
    """
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def rounded(mean: Tensor) -> Tensor:
    """The mean, one and the same number wherever it goes to.

    XLA computes what is cheap anew in each place: there a mean is a product of
    a sum, which is rounded together with the difference that follows, and so
    otherwise than elsewhere. A division, even by 1, is too expensive for that.

    Args:
        mean: float32 or float64.
    """
    if not compiles():
        return mean
    # A 1 that XLA does not know to be one.
    return mean / (1.0 + tf.minimum(tf.abs(mean), 0.0))
