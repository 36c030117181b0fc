# SPDX-License-Identifier: Apache-2.0
"""Functions compiled by tracing."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bn import ops


def without_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without XLA, which does not pay off for a few runs."""

    def plain(*arguments: Any) -> Any:
        with ops.without_compiling():
            return function(*arguments)

    return plain


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a compiled function, traced once per shape of its arguments.

    TensorFlow counts traces per line of code, so it mistakes the functions of
    many layers for one function that is traced too often. It does not warn if
    it is asked for the concrete function.

    Args:
        function: A function of tensors, or structures of them.
    """
    compiled = tf.function(
        without_xla(function), autograph=False, reduce_retracing=True
    )

    def call(*arguments: Any) -> Any:
        return compiled.get_concrete_function(*arguments)(*arguments)

    return call
