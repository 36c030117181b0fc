# SPDX-License-Identifier: Apache-2.0
"""Batch normalization in TensorFlow, with a backward pass written by hand.

The equations stand in `algorithm1`. Here they become a function with a
gradient of its own: this module holds every use of `tf.custom_gradient`. It
decides what XLA compiles, and talks to the other replicas.
"""

import contextlib
import contextvars
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

from keras_bn.backend import reductions, xla
from keras_bn.backend.algorithm1 import (
    Algorithm1,
    Moments,
    Saved,
    as_center,
    expand,
    rounded_mean,
    statistics_dtype,
)

Tensor = Any  # tf.Tensor is untyped for mypy.

#: Values from which a tensor is worth an expression compiled by XLA, whose
#: start costs as much as a dozen kernels. So many times as many are needed
#: where a feature has few values, whose sums the kernels are fast for; and
#: where there are no sums. An unknown size counts as 64.
_WORTH_COMPILING = 2**15
_TIMES_FOR_FEW, _TIMES_WITHOUT_SUMS = 4, 8
#: Values of images that TensorFlow's own kernel normalizes the fastest, where
#: statistics are given. Of fewer its start takes too long; of more, XLA is as
#: fast, and joins an activation of any kind.
_WORTH_ONE_KERNEL = range(3 * 2**15, 2**20)
_COMPILING = contextvars.ContextVar("compiling", default=True)
#: Least |gamma| from which x_hat can be told from the output.
_LEAST_GAMMA = 1e-3


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    axes: Sequence[int],
    epsilon: float,
    mask: Tensor | None = None,
    synchronized: bool = False,
    activation: str = "linear",
    keeps: str = "input",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalizes with the batch's own statistics; see `keras_bn.ops`.

    Returns:
        `(y, batch_mean, batch_variance, count)`; the count is a number where it
        is known, else it has the dtype of the statistics and the feature
        shape, or none at all.
    """
    x = tf.convert_to_tensor(x)
    gamma, beta = _parameters(x, gamma, beta, axes)
    if mask is not None:
        mask = tf.broadcast_to(mask, tf.shape(x))
    if keeps == "output":
        gamma = away_from_zero(gamma)
    algorithm = Algorithm1(
        axes=tuple(axes),
        epsilon=epsilon,
        activation=activation,
        from_output=keeps == "output",
        compiled=_worth_compiling(x, axes),
    )
    synchronized = synchronized and _several_replicas()
    y, mean, variance, count = _with_gradient(
        algorithm, *(x, gamma, beta, mask), synchronized=synchronized
    )
    size = _size(x, axes)
    if isinstance(size, int) and mask is None and not synchronized:
        count = size
    return y, mean, variance, count


class _Run(NamedTuple):
    """The expressions of an algorithm, as they are to be called."""

    moments: Callable[..., Any]
    normalize: Callable[..., Any]
    forward: Callable[..., Any]
    parameter_gradients: Callable[..., Any]
    input_gradient: Callable[..., Any]
    backward: Callable[..., Any]
    input_gradient_of_constants: Callable[..., Any]


@functools.cache
def _run(algorithm: Algorithm1) -> _Run:
    """Kept, so that layers of one shape share what XLA compiled."""
    run = _compiled if algorithm.compiled else getattr
    return _Run(*[run(algorithm, name) for name in _Run._fields])


def _compiled(algorithm: Algorithm1, name: str) -> Callable[..., Any]:
    """An expression compiled by XLA, one with sums over few axes.

    Its first argument has the shape of the input.
    """
    if name == "normalize":
        # Has no sums; and LiteRT folds it into a convolution only as it is.
        return tf.function(
            algorithm.normalize, autograph=False, jit_compile=True
        )

    @tf.function(autograph=False, jit_compile=True)
    def run(*arguments: Any) -> Any:
        shapes = _Shapes(arguments[0], algorithm.axes)
        grouped = dataclasses.replace(algorithm, axes=shapes.grouped_axes)
        expression = getattr(grouped, name)
        results = expression(*tf.nest.map_structure(shapes.group, arguments))
        return tf.nest.map_structure(shapes.ungroup, results)

    return run


class _Shapes:
    """Makes one axis of neighbouring axes of one kind, and takes it back.

    Args:
        x: A tensor of the shape of the input.
        axes: Its axes that the statistics are taken over.
    """

    def __init__(self, x: Tensor, axes: Sequence[int]) -> None:
        groups = [
            (summed, list(run))
            for summed, run in itertools.groupby(
                range(len(x.shape)), lambda axis: axis in axes
            )
        ]
        features = [a for a in range(len(x.shape)) if a not in axes]
        self.grouped_axes = tuple(
            i for i, (summed, _) in enumerate(groups) if summed
        )
        grouped = [_size(x, run) for _, run in groups]
        grouped_features = [_size(x, run) for s, run in groups if not s]
        self._grouped = {
            len(x.shape): grouped,
            len(features): grouped_features,
        }
        self._original = {
            len(grouped): [_size(x, [a]) for a in range(len(x.shape))],
            len(grouped_features): [_size(x, [a]) for a in features],
        }

    def group(self, tensor: Any) -> Any:
        """To as few axes as will do; scalars and `None` as they are."""
        return self._reshaped(tensor, self._grouped)

    def ungroup(self, tensor: Any) -> Any:
        """The inverse."""
        return self._reshaped(tensor, self._original)

    def _reshaped(self, tensor: Any, shapes: dict[int, Any]) -> Any:
        if tensor is None or not tensor.shape.rank:
            return tensor
        return tf.reshape(tensor, shapes[len(tensor.shape)])


def _with_gradient(
    algorithm: Algorithm1,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: Any,
    *,
    synchronized: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, mean, biased variance and count, with the gradient by hand."""
    run = _run(algorithm)
    dtype = statistics_dtype(x)
    size = tf.cast(_size(x, algorithm.axes), dtype)

    # Plain tensors in (never variables), options by closure: graph mode would
    # turn keyword options into float32 tensors.
    @tf.custom_gradient
    def normalize(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        if synchronized:
            of_one: Moments = run.moments(x, size, mask)
            center, variance, count = _merged(of_one, dtype)
            y = run.normalize(x, center, variance, gamma, beta)
        else:
            y, center, variance, count = run.forward(x, size, gamma, beta, mask)
        saved = Saved(
            y if algorithm.from_output else x,
            *(gamma, beta, center, variance, count, mask),
        )

        def gradient(
            dy: Tensor, dmean: Tensor, dvariance: Tensor, _: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            # A function may not capture from the forward pass by itself
            # within the gradient of tf.cond.
            kept = tf.nest.map_structure(_identity, saved)
            if not synchronized:
                return run.backward(
                    dy, kept, _unless_zero(dmean), _unless_zero(dvariance)
                )
            dgamma, dbeta = run.parameter_gradients(dy, kept)
            of_all = _over_replicas(dgamma, dbeta, dmean, dvariance)
            return run.input_gradient(dy, kept, *of_all), dgamma, dbeta

        return (y, rounded_mean(center, dtype), variance, count), gradient

    return normalize(x, gamma, beta)


def _merged(of_one: Moments, dtype: Any) -> Moments:
    """Moments of all replicas from those of each (Chan et al. 1983).

    In float64, as means of replicas are subtracted from each other.
    """
    center, variance, count = of_one
    mean = rounded_mean(center, tf.float64)
    count = tf.cast(count, tf.float64)
    all_values, all_count = _over_replicas(count * mean, count)
    m = tf.maximum(all_count, 1.0)
    all_mean = all_values / m
    square = tf.cast(variance, tf.float64) + tf.square(mean - all_mean)
    (all_squares,) = _over_replicas(count * square)
    return (
        as_center(all_mean, dtype),
        tf.cast(all_squares / m, dtype),
        tf.cast(all_count, dtype),
    )


def _over_replicas(*tensors: Tensor) -> list[Tensor]:
    """Sums over all replicas, in one collective."""
    packed = tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)
    packed = tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, packed
    )
    parts = tf.split(packed, [tf.size(t) for t in tensors])
    return [
        tf.reshape(part, tf.shape(t))
        for part, t in zip(parts, tensors, strict=True)
    ]


def apply_statistics(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    axes: Sequence[int],
    epsilon: float,
    activation: str = "linear",
) -> Tensor:
    """Normalizes with given statistics; see `keras_bn.ops`."""
    x = tf.convert_to_tensor(x)
    algorithm = Algorithm1(
        axes=tuple(axes),
        epsilon=epsilon,
        activation=activation,
        from_output=False,
        compiled=_worth_compiling(x, axes),
    )
    run = _run(algorithm)
    without_sums = dataclasses.replace(
        algorithm, compiled=_worth_compiling(x, axes, sums=False)
    )
    run_without_sums = run_for_dx = _run(without_sums)
    if activation == "linear":  # Then dx is a single product.
        run_for_dx = _run(dataclasses.replace(algorithm, compiled=False))
    in_one = _worth_one_kernel(x, axes)

    # Of the backward pass only what is asked for is run in a graph, where
    # TensorFlow's own gradient of a compiled function is all or nothing.
    @tf.custom_gradient
    def normalize(
        x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor
    ) -> Any:
        saved = Saved(x, gamma, beta, (mean,), variance, None, None)

        def gradient(dy: Tensor) -> tuple[Tensor, ...]:
            kept = tf.nest.map_structure(_identity, saved)
            dx = run_for_dx.input_gradient_of_constants(dy, kept)
            dgamma, dbeta = run.parameter_gradients(dy, kept)
            dmean, dvariance = algorithm.constants_gradient(kept, dgamma, dbeta)
            return dx, dmean, dvariance, dgamma, dbeta

        if in_one:
            y = algorithm.normalize_in_one(x, mean, variance, gamma, beta)
        else:
            y = run_without_sums.normalize(x, (mean,), variance, gamma, beta)
        return y, gradient

    dtype = statistics_dtype(x)
    gamma, beta = _parameters(x, gamma, beta, axes)
    mean, variance = tf.cast(mean, dtype), tf.cast(variance, dtype)
    return normalize(x, mean, variance, gamma, beta)


def scale_and_shift(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    *,
    axes: Sequence[int],
) -> Tensor:
    """`scale * x + shift` per feature; see `keras_bn.ops`."""
    dtype = statistics_dtype(x)
    y = tf.cast(x, dtype)
    if scale is not None:
        y = y * expand(tf.cast(scale, dtype), axes)
    if shift is not None:
        y = y + expand(tf.cast(shift, dtype), axes)
    return tf.cast(y, x.dtype)


def away_from_zero(gamma: Tensor) -> Tensor:
    """`gamma`, but at least `_LEAST_GAMMA` in magnitude; see `keras_bn.ops`.

    Its gradient is that of `gamma` itself, so that gamma can leave 0.
    """
    gamma = tf.convert_to_tensor(gamma)
    least = tf.constant(_LEAST_GAMMA, gamma.dtype)
    nearest = tf.where(gamma < 0.0, -least, least)
    away = tf.where(tf.abs(gamma) < least, nearest, gamma)
    return gamma + tf.stop_gradient(away - gamma)


def subtract_in_place(variable: Any, step: Tensor) -> None:
    """`variable -= step`: one operation, where Keras' own are two."""
    if in_stateless_scope():
        variable.assign(variable.value - step)
    else:
        variable.value.assign_sub(step)


def require_several_values(count: Tensor | int) -> None:
    """Fails where a feature has a single value, unless XLA compiles it."""
    tf.debugging.assert_none_equal(
        count,
        tf.ones_like(count),
        message=(
            "batch normalization needs more than one value per feature in "
            "training: the variance of a single value is 0"
        ),
    )


def _parameters(
    x: Tensor, gamma: Any, beta: Any, axes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Gamma and beta of the feature shape, 1 and 0 if there are none."""
    dtype = statistics_dtype(x)
    features = [_size(x, [a]) for a in range(len(x.shape)) if a not in axes]
    gamma = tf.ones([], dtype) if gamma is None else tf.cast(gamma, dtype)
    beta = tf.zeros([], dtype) if beta is None else tf.cast(beta, dtype)
    return _broadcast(gamma, features), _broadcast(beta, features)


def _broadcast(tensor: Tensor, shape: list[Any]) -> Tensor:
    # TensorFlow runs an operation even where there is nothing to do.
    return tensor if tensor.shape == shape else tf.broadcast_to(tensor, shape)


def _unless_zero(tensor: Tensor) -> Tensor | None:
    """`None` for what a graph knows to be 0, as of an output without use."""
    if tf.executing_eagerly():  # What it holds is on the device.
        return tensor
    value = tf.get_static_value(tensor)
    return tensor if value is None or value.any() else None


def _identity(tensor: Any) -> Any:
    return None if tensor is None else tf.identity(tensor)


def _several_replicas() -> bool:
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


@contextlib.contextmanager
def without_compiling() -> Iterator[None]:
    """Batch normalization called within runs plain operations only.

    Of large tensors they take up to three times as long, but XLA takes half a
    second for every layer and shape: for what runs a few times.
    """
    token = _COMPILING.set(False)
    try:
        yield
    finally:
        _COMPILING.reset(token)


def _worth_compiling(
    x: Tensor, axes: Sequence[int], *, sums: bool = True
) -> bool:
    """Whether XLA is to compile what is done to `x`.

    It does so for every shape anew, in half a second and more. Of batches there
    are few sizes in training; other sizes that are unknown may take any value,
    as may that of a batch where a server runs the model.
    """
    few_shapes = None not in (x.shape[1:] if sums else x.shape)
    if not _COMPILING.get() or not (few_shapes or xla.compiles()):
        return False
    of_feature = _size(x, axes)
    times = 1
    if not sums:
        times = _TIMES_WITHOUT_SUMS
    elif isinstance(of_feature, int) and of_feature <= reductions.FEW:
        times = _TIMES_FOR_FEW
    return _values(x) >= _WORTH_COMPILING * times


def _worth_one_kernel(x: Tensor, axes: Sequence[int]) -> bool:
    """Whether to normalize by TensorFlow's own kernel, with given statistics.

    It is as exact but under XLA. After a convolution it costs next to nothing:
    TensorFlow's graph optimizer makes one kernel of both, and of a ReLU.
    """
    images = len(x.shape) == 4 and tuple(axes) == (0, 1, 2)
    if not images or x.dtype != tf.float32:
        return False
    if not tf.is_symbolic_tensor(x) or xla.compiles():
        return False
    if x.op.type == "Conv2D":
        return bool(x.op.get_attr("data_format") == b"NHWC")
    if None in x.shape:  # Then XLA is no choice.
        return _values(x) >= _WORTH_ONE_KERNEL.start
    return _values(x) in _WORTH_ONE_KERNEL


def _values(x: Tensor) -> int:
    """Number of values, if each unknown size is 64."""
    return math.prod(64 if size is None else size for size in x.shape)


def _size(x: Tensor, axes: Sequence[int]) -> Any:
    """Product of the sizes of some axes, as a number where it is known."""
    sizes = [x.shape[axis] for axis in axes]
    if None in sizes:
        return tf.reduce_prod(tf.gather(tf.shape(x), axes))
    return math.prod(sizes)
