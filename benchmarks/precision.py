# SPDX-License-Identifier: Apache-2.0
"""Error of a normalized batch against float64: ours and its peers.

    python -m benchmarks.precision --output=docs/results/precision.json

Every contestant normalizes the same values, of standard deviation 1 around a
mean and rounded to its dtype, in training mode. The error is the largest
absolute difference of an output from what NumPy gives in float64 for the same
rounded values. `rounding` is what the best possible contestant would have: the
exact output, rounded to the dtype.
"""

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from numpy.typing import NDArray

from benchmarks import measure, tables
from keras_bn import BatchNormalization

FLAGS = flags.FLAGS

Array = NDArray[Any]
Normalize = Callable[[Any], Any]

EPSILON = 1e-3
MEANS = (0.0, 10.0, 1e2, 1e3, 1e4, 1e5)
DTYPES = ("float32", "float16", "bfloat16")
UNKNOWN = "graph of unknown sizes"
MODES = ("eager", "graph", UNKNOWN, "xla")
#: `[N, H, W, C]` by values per feature: powers of two, by which XLA always
#: divides exactly, and other numbers, by which it may not.
SHAPES = {
    100: (4, 5, 5, 4),
    120: (120, 1, 1, 256),
    300: (300, 1, 1, 1024),
    1024: (4, 16, 16, 4),
    16_384: (16, 32, 32, 4),
    25_088: (32, 28, 28, 96),
    131_072: (32, 64, 64, 4),
    524_288: (32, 128, 128, 4),
    1_048_576: (64, 128, 128, 4),
}


def inputs(values: int, mean: float, dtype: str, *, seed: int = 0) -> Array:
    """Normal values `[N, H, W, C]` with standard deviation 1, rounded."""
    rng = np.random.default_rng(seed)
    exact = rng.normal(mean, 1.0, SHAPES[values])
    return keras.ops.convert_to_numpy(keras.ops.cast(exact, dtype))


def exact(x: Array) -> Array:
    """Batch normalization over all axes but the last, in float64."""
    wide = x.astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    centered = wide - wide.mean(axes)
    return centered / np.sqrt(np.square(centered).mean(axes) + EPSILON)


def contestants(dtype: str, features: int) -> dict[str, Normalize]:
    """Training-mode batch normalization of `[N, H, W, features]`, by name."""
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"

    def layer(make: Callable[..., Any]) -> Normalize:
        normalize = make(epsilon=EPSILON, dtype=policy)
        normalize.build((None, None, None, features))
        return lambda x: normalize(x, training=True)

    def fused(x: Any) -> Any:
        ones, zeros = tf.ones([features]), tf.zeros([features])
        return tf.compat.v1.nn.fused_batch_norm(
            x, ones, zeros, epsilon=EPSILON, is_training=True
        )[0]

    return {
        "ours": layer(BatchNormalization),
        "keras": layer(keras.layers.BatchNormalization),
        "fused": fused,
    }


def compiled(function: Normalize, mode: str) -> Normalize:
    """The function run eagerly, as a graph, or compiled by XLA."""
    if mode == "eager":
        return function
    if mode == UNKNOWN:
        return _for_any_size(function)
    return tf.function(function, jit_compile=mode == "xla")


def _for_any_size(function: Normalize) -> Normalize:
    """As a graph that knows only the dtype and channels of images."""

    @tf.function
    def run(x: Any) -> Any:
        return function(x)

    def call(x: Any) -> Any:
        signature = tf.TensorSpec([None, None, None, x.shape[-1]], x.dtype)
        return run.get_concrete_function(signature)(x)

    return call


def error(y: Any, expected: Array) -> float:
    """Largest absolute difference; NaN where an output is not a number."""
    wide = keras.ops.convert_to_numpy(keras.ops.cast(y, "float64"))
    return float(np.abs(wide - expected).max())


def rows(
    values: Iterable[int],
    means: Sequence[float],
    dtypes: Iterable[str],
    modes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Measures each combination; one row each, with all errors by name."""
    for dtype, count in itertools.product(dtypes, values):
        functions = {
            mode: {
                name: compiled(function, mode)
                for name, function in contestants(
                    dtype, SHAPES[count][-1]
                ).items()
            }
            for mode in modes
        }
        for mean in means:
            x = inputs(count, mean, dtype)
            if not np.isfinite(x.astype(np.float32)).all():
                continue  # The dtype has no such numbers.
            expected, tensor = exact(x), tf.constant(x)
            shared = {
                "rounding": error(expected.astype(x.dtype), expected),
                **_torch(x, expected),
            }
            for mode in modes:
                errors = {
                    name: error(normalize(tensor), expected)
                    for name, normalize in functions[mode].items()
                }
                yield {
                    "dtype": dtype,
                    "values": count,
                    "mean": mean,
                    "mode": mode,
                    "errors": {**errors, **shared},
                }


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one line per dtype, values and mean; ` / ` between modes."""
    groups: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in measured:
        key = row["dtype"], row["values"], row["mean"]
        groups.setdefault(key, {})[row["mode"]] = row["errors"]
    names = list(measured[0]["errors"])
    lines = [["dtype", "values", "mean", *names]]
    for (dtype, values, mean), by_mode in groups.items():
        cells = [dtype, f"{values:,}", f"{mean:g}"]
        for name in names:
            figures = [_figure(errors[name]) for errors in by_mode.values()]
            same = len(set(figures)) == 1
            cells.append(figures[0] if same else " / ".join(figures))
        lines.append(cells)
    return tables.markdown(lines)


def _figure(value: float | None) -> str:
    # JSON has null for what is not finite.
    finite = value is not None and math.isfinite(value)
    return f"{value:.0e}" if finite else "not finite"


def _torch(x: Array, expected: Array) -> dict[str, float]:
    """PyTorch's error, where it is installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    channels_first = np.moveaxis(x.astype(np.float32), -1, 1).copy()
    y = torch.nn.functional.batch_norm(
        torch.from_numpy(channels_first).to(getattr(torch, x.dtype.name)),
        None,
        None,
        training=True,
        eps=EPSILON,
    )
    return {"torch": error(np.moveaxis(y.float().numpy(), 1, -1), expected)}


def main(_: list[str]) -> None:
    """Measures, prints a table, writes the JSON."""
    measured = list(rows(SHAPES, MEANS, FLAGS.dtypes, MODES))
    print(table(measured))
    measure.write(FLAGS.output, measured)


if __name__ == "__main__":
    flags.DEFINE_multi_enum("dtypes", list(DTYPES), DTYPES, "which to measure")
    flags.DEFINE_string("output", "build/bench/precision.json", "file to write")
    app.run(main)
