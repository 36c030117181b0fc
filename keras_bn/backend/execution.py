# SPDX-License-Identifier: Apache-2.0
"""Many training steps in one call, on data that stay on the device."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

TrainSteps = Callable[[NDArray[np.int32]], None]
Evaluate = Callable[[], dict[str, float]]


def make_train_steps(
    model: keras.Model,
    x: NDArray[np.float32],
    y: NDArray[np.int32],
    *,
    capacity: int,
    jit_compile: bool,
) -> TrainSteps:
    """Returns a function that runs `model.train_step` once per row of indices.

    It is one compiled loop with a trip count known only when it runs: however
    a run is cut into calls, the same program does the same arithmetic, so the
    weights do not depend on the cuts.

    Args:
        model: A compiled and built model.
        x: Inputs `[N, ...]`.
        y: Labels `[N]`.
        capacity: Most rows that one call may bring.
        jit_compile: Whether XLA compiles the loop.

    Returns:
        `train(rows)`, with `rows` int32 `[count, batch_size]` and
        `count <= capacity`. Metrics go on accumulating in the model.
    """
    # Metrics and optimizer make their variables on first use, which may not
    # happen inside a compiled loop.
    model.evaluate(x[:1], y[:1], verbose=0)
    model.reset_metrics()
    model.optimizer.build(model.trainable_variables)
    x, y = tf.constant(x), tf.constant(y)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def execute(rows: tf.Tensor, count: tf.Tensor) -> None:
        def one_step(step: tf.Tensor) -> tuple[tf.Tensor]:
            model.train_step(
                (tf.gather(x, rows[step]), tf.gather(y, rows[step]))
            )
            return (step + 1,)

        tf.while_loop(lambda step: step < count, one_step, (tf.constant(0),))

    def train(rows: NDArray[np.int32]) -> None:
        count = len(rows)
        padded = np.zeros((capacity, rows.shape[1]), np.int32)
        padded[:count] = rows
        execute(tf.constant(padded), tf.constant(count))

    return train


def make_evaluate(
    model: keras.Model,
    x: NDArray[np.float32],
    y: NDArray[np.int32],
    *,
    batch_size: int,
) -> Evaluate:
    """Returns a function that gives loss and metrics over all of `x`, `y`.

    It resets the model's metrics before and after.
    """
    x, y = tf.constant(x), tf.constant(y)
    test_step = tf.function(model.test_step, reduce_retracing=True)

    def evaluate() -> dict[str, float]:
        model.reset_metrics()
        for first in range(0, len(x), batch_size):
            last = first + batch_size
            test_step((x[first:last], y[first:last]))
        logs = numbers(model.get_metrics_result())
        model.reset_metrics()
        return logs

    return evaluate


def numbers(logs: dict[str, Any]) -> dict[str, float]:
    """Tensors of a `logs` dictionary as Python floats."""
    return {name: float(value) for name, value in logs.items()}
