# SPDX-License-Identifier: Apache-2.0
"""The cost of watching: callbacks during `fit`, and each Jacobian method.

    python -m benchmarks.analysis --data_dir=DIR
    python -m benchmarks.analysis --only=jacobians

**Callbacks.** The same network is trained without callbacks and with each
preset of `analysis.watch` at its own schedule, in turns: the paper's MLP for
the paper's 50,000 steps (MNIST; without `--data_dir`, digits) and a small
convolutional network, both by `fit` at Keras' defaults. There are two figures
for each preset: the ratio of total times, which is noisy, and the share of the
time that was spent inside each callback, including tracing and compiling, which
is not. The weights, and all that training may change, must come out
bit-identical.

**Jacobians** of a circular 3x3 convolution, from 128 to 1,048,576 inputs. Its
singular values are known at any size (Sedghi, Gupta & Long 2019, arXiv
1805.10408): those of the kernel's Fourier transform at each frequency, computed
here in float64. `exact`: all values, up to 4,096 inputs; the error is the
largest absolute error over the largest value. `iterative`: the five largest
values, likewise, up to 131,072 inputs. `lanczos`: the density; the error is the
largest difference between the cumulative distributions. `hutchinson`: the mean
square alone, and its relative error. The first call traces and compiles; the
second shows what each measurement of a callback costs.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags
from numpy.typing import NDArray

import analysis
from analysis import autodiff
from analysis.measures import lanczos
from analysis.measures.jacobian import Jacobian
from analysis.measures.operators import JacobianOperator
from benchmarks import measure
from keras_bn import BatchNormalization, data, recipes, training

FLAGS = flags.FLAGS
Array = NDArray[Any]

PRESETS = ("economy", "standard", "full")
HOOKS = (
    "on_train_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_epoch_end",
    "on_train_end",
)
#: Height, width and channels of what is convolved.
SHAPES = (
    (4, 4, 8),
    (8, 8, 16),
    (16, 16, 16),
    (16, 16, 64),
    (64, 64, 32),
    (128, 128, 64),
)
#: Larger sizes take hours of SVD, and a quarter of an hour of restarts.
MOST_FOR_EXACT, MOST_FOR_ITERATIVE = 2**12, 2**17
TOP = 5


class Mlp:
    """The network of Fig. 1 and its data."""

    def __init__(self) -> None:
        self._name = "mnist" if FLAGS.data_dir else "digits"
        self._data = data.load(self._name, data_dir=FLAGS.data_dir)
        self.batch_size = recipes.FIG1_BN.batch_size
        self.examples = self._data.x_train, self._data.y_train
        self.probe = self._data.probe()
        self.steps = FLAGS.mlp_steps

    def model(self) -> keras.Model:
        """A new one, compiled."""
        return training.build_model(
            recipes.FIG1_BN.replace(dataset=self._name),
            input_shape=self._data.input_shape,
            classes=self._data.classes,
        )


class Convolutional:
    """Four 3x3 convolutions with BN on 32x32 images, 60 thousand weights."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.random((2000, 32, 32, 3), np.float32)
        y = rng.integers(10, size=len(x))
        self.batch_size = 64
        self.examples = x, y
        self.probe = x, y
        self.steps = FLAGS.convolution_steps

    def model(self) -> keras.Model:
        """A new one, compiled."""
        x = inputs = keras.Input((32, 32, 3))
        for channels, strides in ((32, 1), (32, 2), (64, 2), (64, 2)):
            x = keras.layers.Conv2D(
                channels, 3, strides, padding="same", use_bias=False
            )(x)
            x = keras.layers.ReLU()(BatchNormalization()(x))
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(10)(x))
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model


class Training:
    """Trains one network with one preset, and adds up what that cost."""

    def __init__(self, task: Any, preset: str) -> None:
        self._task = task
        self._preset = preset
        self.seconds: list[float] = []
        self.inside: list[dict[str, float]] = []
        self.state: list[Array] = []

    def __call__(self) -> None:
        """One run, including compilation."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model = self._task.model()
        inside: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            callbacks = []
            if self._preset != "none":
                callbacks = analysis.watch(
                    folder, probe=self._task.probe, preset=self._preset
                )
            for callback in callbacks:
                count_time(callback, inside)
            started = time.perf_counter()
            self._fit(model, callbacks)
            self.seconds.append(time.perf_counter() - started)
        self.inside.append(inside)
        self.state = [
            np.array(keras.ops.convert_to_numpy(variable))
            for variable in (*model.variables, *model.optimizer.variables)
        ]

    def _fit(
        self, model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]
    ) -> None:
        """As many steps as were asked for, in epochs of all the data."""
        task = self._task
        x, y = task.examples
        per_epoch = min(task.steps, len(x) // task.batch_size)
        count = per_epoch * task.batch_size
        model.fit(
            x[:count],
            y[:count],
            task.batch_size,
            epochs=max(1, task.steps // per_epoch),
            verbose=0,
            callbacks=list(callbacks),
        )


def count_time(
    callback: keras.callbacks.Callback, seconds: dict[str, float]
) -> None:
    """Adds the time that a callback's hooks take to `seconds`, by its name."""
    name = type(callback).__name__

    def timed(hook: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*args: Any, **kwargs: Any) -> None:
            started = time.perf_counter()
            hook(*args, **kwargs)
            passed = time.perf_counter() - started
            seconds[name] = seconds.get(name, 0.0) + passed

        return wrapper

    for hook in HOOKS:
        setattr(callback, hook, timed(getattr(callback, hook)))


def callbacks_cost(task: Any) -> dict[str, Any]:
    """Ratios and shares of each preset on one network."""
    runs = {name: Training(task, name) for name in ("none", *FLAGS.presets)}
    for run in list(runs.values()) * FLAGS.rounds:
        run()
    plain = runs["none"]
    base = statistics.median(plain.seconds)
    rows: dict[str, Any] = {
        "none": {"steps": task.steps, "seconds": plain.seconds}
    }
    for name in FLAGS.presets:
        run = runs[name]
        same = all(map(np.array_equal, plain.state, run.state))
        if not same:
            raise AssertionError(f"preset {name} changed what was learnt")
        inside = {
            callback: statistics.median(x[callback] for x in run.inside) / base
            for callback in run.inside[0]
        }
        rows[name] = {
            "seconds": run.seconds,
            "ratio": statistics.median(run.seconds) / base,
            "share": sum(inside.values()),
            "shares": inside,
        }
    return rows


def circular_convolution(kernel: Array) -> Callable[[Any], Any]:
    """Returns a convolution of `[N, H, W, C]` that wraps around the edges."""

    def function(x: Any) -> Any:
        for axis in (1, 2):
            first = keras.ops.take(x, [0], axis=axis)
            last = keras.ops.take(x, [x.shape[axis] - 1], axis=axis)
            x = keras.ops.concatenate([last, x, first], axis=axis)
        return keras.ops.conv(x, kernel, padding="valid")

    return function


def known_singular_values(kernel: Array, height: int, width: int) -> Array:
    """Singular values of the circular convolution, descending, float64."""
    transformed = np.fft.fft2(
        kernel.astype(np.float64), (height, width), axes=(0, 1)
    )
    return np.sort(np.linalg.svd(transformed, compute_uv=False), None)[::-1]


def distribution_error(nodes: Array, weights: Array, values: Array) -> float:
    """Largest difference of two cumulative distributions.

    Args:
        nodes: `[k]`, nodes of a density.
        weights: `[k]`, adding up to 1.
        values: `[n]`, each of the same weight.
    """
    order = np.argsort(nodes)
    above = np.cumsum(weights[order])
    ascending = np.sort(values)
    below = np.searchsorted(ascending, nodes[order], "left") / values.size
    up_to = np.searchsorted(ascending, nodes[order], "right") / values.size
    steps = (above - up_to, above - weights[order] - below)
    return float(np.max(np.abs(steps)))


def jacobian_cost(shape: tuple[int, int, int]) -> dict[str, Any]:
    """Seconds and error of each method on one convolution."""
    height, width, channels = shape
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, channels, channels)).astype(np.float32)
    kernel /= 3 * np.sqrt(channels, dtype=np.float32)
    x = rng.normal(size=(1, *shape)).astype(np.float32)
    values = known_singular_values(kernel, height, width)
    jacobian = Jacobian(circular_convolution(kernel))
    products = autodiff.Products(circular_convolution(kernel))

    def worst(found: Array) -> float:
        expected = values[: found.size]
        return float(np.max(np.abs(found[0] - expected)) / values[0])

    def exact() -> float:
        return worst(jacobian.spectrum(x, method="exact").values)

    def iterative() -> float:
        return worst(jacobian.spectrum(x, k=TOP, method="iterative").values)

    def density() -> float:
        found = jacobian.spectrum(x, method="lanczos")
        assert found.weights is not None
        return distribution_error(found.values[0], found.weights[0], values)

    def hutchinson() -> float:
        square, _ = lanczos.mean_squares(JacobianOperator(products, x))
        return float(abs(square[0] / np.mean(values**2) - 1))

    methods = {"lanczos": density, "hutchinson": hutchinson}
    if values.size <= MOST_FOR_ITERATIVE:
        methods = {"iterative": iterative, **methods}
    if values.size <= MOST_FOR_EXACT:
        methods = {"exact": exact, **methods}
    return {name: _timed(method) for name, method in methods.items()}


def _timed(method: Callable[[], float]) -> dict[str, float]:
    first = time.perf_counter()
    method()
    second = time.perf_counter()
    error = method()
    return {
        "first": second - first,
        "seconds": time.perf_counter() - second,
        "error": error,
    }


def print_callbacks(name: str, rows: dict[str, Any]) -> None:
    """A line per preset: ratio of times, share of all callbacks, of each."""
    print(f"{name}, {rows['none']['steps']:,} steps")
    for preset in FLAGS.presets:
        row = rows[preset]
        shares = "  ".join(
            f"{callback.removesuffix('Callback')} {share:.2%}"
            for callback, share in row["shares"].items()
        )
        print(f"{preset:10}{row['ratio']:7.3f}{row['share']:8.1%}  {shares}")


def jacobians() -> dict[str, Any]:
    """Rows by the number of inputs, printed as they are measured."""
    print(f"{'inputs':>10}  {'method':12}{'first':>9}{'again':>9}{'error':>10}")
    found = {}
    for shape in SHAPES:
        inputs = int(np.prod(shape))
        found[str(inputs)] = jacobian_cost(shape)
        for name, row in found[str(inputs)].items():
            print(
                f"{inputs:10,}  {name:12}{row['first']:8.2f}s"
                f"{row['seconds']:8.2f}s{row['error']:10.1e}",
                flush=True,
            )
    return {**found, "peak MiB": measure.memory("VmHWM")}


def main(_: list[str]) -> None:
    """Measures, prints tables, writes the JSON."""
    results: dict[str, Any] = {}
    for name, task in (("mlp", Mlp), ("convolutional", Convolutional)):
        if name in FLAGS.only:
            results[name] = callbacks_cost(task())
            print_callbacks(name, results[name])
    if "jacobians" in FLAGS.only:
        results["jacobians"] = jacobians()
    measure.write(FLAGS.output, results)


if __name__ == "__main__":
    parts = ["mlp", "convolutional", "jacobians"]
    flags.DEFINE_multi_enum("only", parts, parts, "what to measure")
    flags.DEFINE_multi_enum("presets", PRESETS, PRESETS, "presets to measure")
    flags.DEFINE_string("data_dir", None, "folder that holds mnist.npz")
    flags.DEFINE_integer("mlp_steps", 50_000, "steps of the MLP", lower_bound=1)
    flags.DEFINE_integer(
        "convolution_steps", 2000, "steps of the other", lower_bound=1
    )
    flags.DEFINE_integer("rounds", 1, "runs of each", lower_bound=1)
    flags.DEFINE_string("output", "build/bench/analysis.json", "file to write")
    app.run(main)
