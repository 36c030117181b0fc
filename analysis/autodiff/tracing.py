# SPDX-License-Identifier: Apache-2.0
"""Functions compiled by tracing."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bn import ops


def without_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with plain operations: XLA is not worth a few runs."""

    def plain(*arguments: Any) -> Any:
        with ops.without_compiling():
            return function(*arguments)

    return plain


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a compiled function, traced once per shape of its arguments.

    TensorFlow counts traces per line of code and so takes the functions of
    many layers for one that is traced too often. Asked for the trace itself,
    it has no reason to warn.

    Args:
        function: Of tensors, or structures of them.
    """
    compiled = tf.function(
        without_xla(function), autograph=False, reduce_retracing=True
    )

    def call(*arguments: Any) -> Any:
        return compiled.get_concrete_function(*arguments)(*arguments)

    return call
