# SPDX-License-Identifier: Apache-2.0
"""Peak memory of forward and backward: keeping input or output, and Keras.

    python -m benchmarks.memory --output=docs/results/memory.json

Twenty blocks of a 3x3 convolution, BN and leaky_relu on `[32, 32, 32, 64]`,
float32, where a tensor takes 8 MiB and all weights 3 MiB: the figures thus
reflect the tensors that are kept for the backward pass.

- `output`: our layer with `activation="leaky_relu", keeps="output"`;
- `input`: the same with `keeps="input"`;
- `keras`: keras.layers.BatchNormalization, then keras.layers.LeakyReLU.

Each runs in a fresh process. The figure is by how much three steps on a batch
of 32 raise the peak of the process's physical memory (VmHWM) above that after
three steps on a batch of 1. So libraries and weights do not count, but
compilation for the larger batch does. ru_maxrss is not used, because a process
inherits it from the one that started it. Processes take turns; figures are
medians. A step computes the gradients of all weights, which are compared with
those of `input`.
"""

import statistics
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from numpy.typing import NDArray

import keras_bn
from benchmarks import measure

FLAGS = flags.FLAGS

CONTESTANTS = ("output", "input", "keras")
SHAPE = (32, 32, 32, 64)
BLOCKS = 20
STEPS = 3
#: Bytes of a tensor between two blocks, in MiB.
TENSOR = float(np.prod(SHAPE)) * 4 / 2**20


def network(contestant: str) -> keras.Model:
    """The stack, with a classifier of ten classes behind it."""
    x = inputs = keras.Input(SHAPE[1:])
    for _ in range(BLOCKS):
        x = keras.layers.Conv2D(SHAPE[-1], 3, padding="same", use_bias=False)(x)
        if contestant == "keras":
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.LeakyReLU(negative_slope=0.2)(x)
        else:
            x = keras_bn.BatchNormalization(
                activation="leaky_relu",
                keeps="output" if contestant == "output" else "input",
            )(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def steps(contestant: str) -> tuple[float, list[NDArray[np.float32]]]:
    """MiB that training adds, and its gradients."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(SHAPE, np.float32)
    labels = rng.integers(10, size=len(x))
    model = network(contestant)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def gradients(x: tf.Tensor, labels: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            value = loss(labels, model(x, training=True))
        return tape.gradient(value, model.trainable_variables)

    def run(size: int) -> list[NDArray[np.float32]]:
        batch = tf.constant(x[:size]), tf.constant(labels[:size])
        for _ in range(STEPS):
            found = gradients(*batch)
        return [gradient.numpy() for gradient in found]

    run(1)
    before = measure.memory("VmHWM")
    found = run(len(x))
    return measure.memory("VmHWM") - before, found


def relative_error(
    found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]
) -> float:
    """The largest, over weights, of |found - expected| / |expected|."""
    return max(
        float(np.linalg.norm(got - want) / np.linalg.norm(want))
        for got, want in zip(found, expected, strict=True)
    )


def main(_: list[str]) -> None:
    """Measures, prints a table, writes the JSON."""
    if not sys.platform.startswith("linux"):
        raise app.UsageError(
            f"Peak memory is read from Linux. Received: {sys.platform}"
        )
    added: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    gradients = {}
    for name in CONTESTANTS * FLAGS.rounds:
        mib, gradients[name] = measure.in_a_process(steps, name)
        added[name].append(mib)
    medians = {name: statistics.median(mib) for name, mib in added.items()}
    rows = {
        name: {
            "mib": median,
            "tensors per block": median / TENSOR / BLOCKS,
            "ratio to keras": median / medians["keras"],
            "gradient error": relative_error(
                gradients[name], gradients["input"]
            ),
        }
        for name, median in medians.items()
    }
    print(f"{'':8}{'MiB':>8}{'per block':>12}{'/ keras':>10}{'gradients':>12}")
    for name, (mib, tensors, ratio, error) in (
        (name, row.values()) for name, row in rows.items()
    ):
        print(f"{name:8}{mib:8.0f}{tensors:12.2f}{ratio:10.2f}{error:12.1e}")
    measure.write(FLAGS.output, rows)


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 3, "processes of each", lower_bound=1)
    flags.DEFINE_string("output", "build/bench/memory.json", "file to write")
    app.run(main)
