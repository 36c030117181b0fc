# SPDX-License-Identifier: Apache-2.0
"""Batch normalization in TensorFlow, with a backward pass written by hand.

The equations are in `algorithm1`. Here they become a function with its own
gradient: this module holds every use of `tf.custom_gradient`. `compiling`
decides what runs the equations.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

from keras_bn.backend import compiling, replicas
from keras_bn.backend.algorithm1 import (
    Algorithm1,
    Engine,
    Moments,
    Saved,
    as_center,
    expand,
    rounded_mean,
    statistics_dtype,
)

Tensor = Any  # tf.Tensor is untyped for mypy.

#: Least |gamma| for which x_hat can be recovered from the output.
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
        `(y, batch_mean, batch_variance, count)`; the count is a Python number
        if known, else a tensor in the dtype of the statistics, a scalar or of
        the feature shape.
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
        engine=compiling.engine(x, axes),
    )
    synchronized = synchronized and replicas.are_several()
    y, mean, variance, count = _with_gradient(
        algorithm, *(x, gamma, beta, mask), synchronized=synchronized
    )
    size = compiling.size(x, axes)
    if isinstance(size, int) and mask is None and not synchronized:
        count = size
    return y, mean, variance, count


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
    run = compiling.run(algorithm)
    dtype = statistics_dtype(x)
    size = tf.cast(compiling.size(x, algorithm.axes), dtype)

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
        saved = _kept(
            Saved(
                y if algorithm.from_output else x,
                *(gamma, beta, center, variance, count, mask),
            )
        )

        def gradient(
            dy: Tensor, dmean: Tensor, dvariance: Tensor, _: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            # Within the gradient of tf.cond, a compiled function cannot
            # capture tensors of the forward pass by itself.
            kept = _kept(saved)
            dy = _dense(dy, x)
            if not synchronized:
                return run.backward(
                    dy, kept, _unless_zero(dmean), _unless_zero(dvariance)
                )
            dgamma, dbeta = run.parameter_gradients(dy, kept)
            of_all = replicas.totals(dgamma, dbeta, dmean, dvariance)
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
    all_values, all_count = replicas.totals(count * mean, count)
    m = tf.maximum(all_count, 1.0)
    all_mean = all_values / m
    square = tf.cast(variance, tf.float64) + tf.square(mean - all_mean)
    (all_squares,) = replicas.totals(count * square)
    return (
        as_center(all_mean, dtype),
        tf.cast(all_squares / m, dtype),
        tf.cast(all_count, dtype),
    )


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
        engine=compiling.engine(x, axes),
    )
    without_sums = dataclasses.replace(
        algorithm, engine=compiling.engine(x, axes, sums=False)
    )
    for_dx = without_sums
    if activation == "linear" and for_dx.engine.compiles:
        for_dx = dataclasses.replace(algorithm, engine=Engine.PLAIN)
    run = compiling.run(algorithm)
    run_without_sums = compiling.run(without_sums)
    run_for_dx = compiling.run(for_dx)
    one_kernel = compiling.for_one_kernel(x, axes)

    # In a graph, only the requested parts of this backward pass run;
    # TensorFlow's own gradient of a compiled function is all or nothing.
    @tf.custom_gradient
    def normalize(
        x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor
    ) -> Any:
        saved = _kept(Saved(x, gamma, beta, (mean,), variance, None, None))

        def gradient(dy: Tensor) -> tuple[Tensor, ...]:
            kept = _kept(saved)
            dy = _dense(dy, x)
            dx = run_for_dx.input_gradient_of_constants(dy, kept)
            dgamma, dbeta = run.parameter_gradients(dy, kept)
            dmean, dvariance = algorithm.constants_gradient(kept, dgamma, dbeta)
            return dx, dmean, dvariance, dgamma, dbeta

        if one_kernel is not None:
            # Not `x`: nothing may come between convolution and kernel.
            images, back = one_kernel
            parameters = mean, variance, gamma, beta
            y = back(algorithm.normalize_in_one(images, *parameters))
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


def select(condition: Tensor, x: Tensor, otherwise: Tensor) -> Tensor:
    """`tf.where` for three tensors of one shape.

    It takes half the time, as it does not broadcast. (It does not check that
    either: a vector as condition would select rows.)
    """
    return tf.raw_ops.Select(condition=condition, x=x, y=otherwise)


def subtract_in_place(variable: Any, step: Tensor) -> None:
    """`variable -= step` in one operation; Keras takes two."""
    if in_stateless_scope():
        variable.assign(variable.value - step)
    else:
        variable.value.assign_sub(step)


def require_several_values(count: Tensor | int) -> None:
    """Fails if a feature has a single value, except under XLA."""
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
    features = [
        compiling.size(x, [a]) for a in range(len(x.shape)) if a not in axes
    ]
    gamma = tf.ones([], dtype) if gamma is None else tf.cast(gamma, dtype)
    beta = tf.zeros([], dtype) if beta is None else tf.cast(beta, dtype)
    return _broadcast(gamma, features), _broadcast(beta, features)


def _broadcast(tensor: Tensor, shape: list[Any]) -> Tensor:
    # TensorFlow runs an operation even where there is nothing to do.
    return tensor if tensor.shape == shape else tf.broadcast_to(tensor, shape)


def _dense(dy: Any, x: Tensor) -> Tensor:
    """A cotangent as a dense tensor of the shape of `x`.

    An operation that takes rows, such as `tf.gather`, returns only those rows.
    """
    dy = tf.convert_to_tensor(dy)
    dy.set_shape(x.shape)
    return dy


def _unless_zero(tensor: Tensor) -> Tensor | None:
    """`None` for a tensor that is 0 in the graph, as for an unused output."""
    if tf.executing_eagerly():  # Its values are on the device.
        return tensor
    value = tf.get_static_value(tensor)
    return tensor if value is None or value.any() else None


def _kept(saved: Saved) -> Saved:
    """What is saved, in tensors of its own.

    Without them TensorFlow finds no second derivative through `tf.cond`, and no
    first one of a condition within a loop. Its graph optimizer removes them.
    """
    return tf.nest.map_structure(
        lambda tensor: None if tensor is None else tf.identity(tensor), saved
    )
