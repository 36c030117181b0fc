# SPDX-License-Identifier: Apache-2.0
"""Batch normalization in TensorFlow, with a backward pass written by hand.

Ioffe & Szegedy 2015 (arXiv 1502.03167), Algorithm 1. For one feature with the
`m` values `x_1 .. x_m` of a mini-batch:

    mean  = 1/m sum_i x_i
    var   = 1/m sum_i (x_i - mean)^2                  (biased)
    x_hat = (x - mean) / sqrt(var + epsilon)
    y     = activation(gamma x_hat + beta)

| symbol           | code           | shape   |
| ---------------- | -------------- | ------- |
| mean             | `shift + rest` | feature |
| var              | `variance`     | feature |
| 1/sqrt(..)       | `inv_std`      | feature |
| x - mean         | `centered`     | as `x`  |
| gamma x_hat+beta | `z`            | as `x`  |
| m                | `count`        | feature |
| dl/dy            | `dy`           | as `x`  |
| dl/dmean         | `dmean`        | feature |
| dl/dvar          | `dvariance`    | feature |

This module imports nothing but TensorFlow and holds every use of
`tf.custom_gradient`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_bn.backend import activations, reductions

Tensor = Any  # tf.Tensor is untyped for mypy.

#: Values from which a tensor is worth an expression compiled by XLA, whose
#: start costs as much as a dozen kernels. An unknown size counts as 64.
_WORTH_COMPILING = 2**15
#: Values of a feature whose mean is taken off before all are summed up.
_SAMPLE = 64
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
    saves: str = "input",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalizes with the batch's own statistics; see `keras_bn.ops`.

    Returns:
        `(y, batch_mean, batch_variance, count)`; the count has the dtype of
        the statistics and the feature shape, or none at all.
    """
    x = tf.convert_to_tensor(x)
    dtype = statistics_dtype(x)
    features = [a for a in range(len(x.shape)) if a not in axes]
    feature_shape = tf.gather(tf.shape(x), features)
    gamma = tf.ones([], dtype) if gamma is None else tf.cast(gamma, dtype)
    beta = tf.zeros([], dtype) if beta is None else tf.cast(beta, dtype)
    gamma = tf.broadcast_to(gamma, feature_shape)
    beta = tf.broadcast_to(beta, feature_shape)
    algorithm = _Algorithm1(
        axes=tuple(axes),
        epsilon=epsilon,
        synchronized=synchronized and _several_replicas(),
        activation=activation,
        compiled=_worth_compiling(x),
    )
    if algorithm.compiled:
        return algorithm.grouped(x, gamma, beta, mask, saves=saves)
    return algorithm.differentiable(x, gamma, beta, mask, saves=saves)


@dataclasses.dataclass(frozen=True)
class _Algorithm1:
    """The paper's Algorithm 1 and its gradient, with everything that is fixed.

    Attributes:
        axes: The axes that the statistics are taken over, ascending.
        epsilon: Added to the variance.
        synchronized: Whether there are other replicas whose values count too.
        activation: Name in `activations.BY_NAME`.
        compiled: Whether XLA compiles `forward` and `backward`.
    """

    axes: tuple[int, ...]
    epsilon: float
    synchronized: bool
    activation: str
    compiled: bool

    def grouped(
        self, x: Tensor, gamma: Tensor, beta: Tensor, mask: Any, *, saves: str
    ) -> tuple[Tensor, ...]:
        """`differentiable`, with neighbouring axes of one kind made one."""
        groups = _groups(self.axes, len(x.shape))
        sizes = [_size(x, group) for group, _ in groups]
        axes = tuple(i for i, (_, summed) in enumerate(groups) if summed)
        features = [s for s, (_, f) in zip(sizes, groups, strict=True) if not f]
        if mask is not None:
            mask = tf.reshape(tf.broadcast_to(mask, tf.shape(x)), sizes)
        y, *statistics, count = dataclasses.replace(
            self, axes=axes
        ).differentiable(
            tf.reshape(x, sizes),
            tf.reshape(gamma, features),
            tf.reshape(beta, features),
            mask,
            saves=saves,
        )
        shape = tf.shape(gamma)
        mean, variance = (tf.reshape(s, shape) for s in statistics)
        count = tf.reshape(count, shape) if len(count.shape) else count
        y = tf.reshape(y, tf.shape(x))
        return tf.ensure_shape(y, x.shape), mean, variance, count

    # The derivation stands above `backward`.
    def differentiable(
        self, x: Tensor, gamma: Tensor, beta: Tensor, mask: Any, *, saves: str
    ) -> tuple[Tensor, ...]:
        """`(y, mean, variance, count)`, with the gradient of `backward`."""
        forward, backward = _expressions(self)
        from_output = saves == "output"
        if from_output:
            # A plain gradient for gamma, so that it can leave what is too
            # close to 0.
            gamma = gamma + tf.stop_gradient(_away_from_zero(gamma) - gamma)

        # Plain tensors in (never variables), options by closure: graph mode
        # would turn keyword options into float32 tensors.
        @tf.custom_gradient
        def normalize(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
            y, shift, rest, variance, count = forward(x, gamma, beta, mask)
            saved = y if from_output else x

            def gradient(
                dy: Tensor, dmean: Tensor, dvariance: Tensor, _: Tensor
            ) -> tuple[Tensor, ...]:
                arguments = (
                    *(dy, dmean, dvariance),
                    *(saved, gamma, beta, shift, rest, variance, count),
                )
                # A function may not capture from the forward pass by itself
                # within the gradient of tf.cond.
                return backward(
                    *map(tf.identity, arguments),
                    mask if mask is None else tf.identity(mask),
                    from_output=from_output,
                )

            return (y, shift + rest, variance, count), gradient

        return normalize(x, gamma, beta)

    def forward(
        self, x: Tensor, gamma: Tensor, beta: Tensor, mask: Any
    ) -> tuple[Tensor, ...]:
        """Returns `y`, `shift`, `rest`, the biased variance, the count."""
        shift, rest, variance, count = self._moments(x, mask)
        slope = gamma * self._inverse_std(variance)
        centered = self._centered(x, shift, rest)
        z = centered * self._expand(slope) + self._expand(beta)
        y = tf.cast(self._activation.function(z), x.dtype)
        return y, shift, rest, variance, count

    def _moments(self, x: Tensor, mask: Any) -> tuple[Tensor, ...]:
        """Statistics that stay exact where |mean| is large beside the std.

        A float32 sum is off by its rounding, which grows with |mean| times the
        number of values. So something close to the mean, `shift`, is taken off
        first; the mean of what remains, `rest`, is small and accurate. Then
        mean = `shift + rest`, and var = mean of (x - shift)^2 - rest^2 loses
        no more than the digits of rest^2 / var, which is at most the number of
        values for one that the shift was taken from, and far below 1 but for
        a sample that is unlike all the rest.
        """
        dtype = statistics_dtype(x)
        if mask is None:
            sample = tf.cast(self._sample(x), dtype)
            shift, sampled, count = self._over_replicas(
                tf.reduce_sum(sample, self.axes),
                self._count(sample),
                self._count(x),
            )
            shift = shift / tf.maximum(sampled, 1.0)
        else:
            shift, count = self._over_replicas(
                *self._sums(
                    lambda x, mask: (
                        _where(mask, tf.cast(x, dtype)),
                        tf.cast(mask, dtype),
                    ),
                    [x, tf.broadcast_to(mask, tf.shape(x))],
                )
            )
            shift = shift / tf.maximum(count, 1.0)
        around = self._expand(shift)

        def powers(x: Tensor, mask: Any = None) -> tuple[Tensor, Tensor]:
            shifted = _where(mask, tf.cast(x, dtype) - around)
            return shifted, tf.square(shifted)

        tensors = [x] if mask is None else [x, mask]
        total, square = self._over_replicas(*self._sums(powers, tensors))
        m = tf.maximum(count, 1.0)
        rest = total / m
        variance = square / m - tf.square(rest)
        # Not tf.maximum, which may turn NaN into 0 under XLA.
        variance = tf.where(variance < 0.0, tf.zeros_like(variance), variance)
        return shift, rest, variance, count

    # The backward pass, derived.
    #
    # Let c_i = x_i - mean and s = inv_std, so z_i = gamma s c_i + beta and
    # dz_i = dy_i activation'(z_i). The loss reaches x through z and, where the
    # statistics themselves are used, through mean and var, whose cotangents
    # are dmean and dvariance. The paper's chain is
    #
    #   dl/dx_hat_i = dz_i gamma
    #   dl/dvar     = sum_i dl/dx_hat_i c_i (-1/2) s^3           + dvariance
    #   dl/dmean    = -s sum_i dl/dx_hat_i + dl/dvar (-2/m) sum_i c_i + dmean
    #   dl/dx_i     = dl/dx_hat_i s + dl/dvar 2 c_i / m + dl/dmean / m
    #
    # With sum_i c_i = 0 and the two sums that gamma and beta need anyway,
    #
    #   dbeta = sum_i dz_i            dgamma = s sum_i dz_i c_i
    #
    # it becomes affine in dz_i and c_i, with three coefficients per feature:
    #
    #   dx_i = (gamma s) dz_i
    #        + ((2 dvariance - gamma s^2 dgamma) / m) c_i
    #        + (dmean - gamma s dbeta) / m
    #
    # exact for every epsilon. A value that a mask leaves out is normalized too
    # but has no part in mean and var: its dx_i is the first term alone, and
    # the sums over dz still run over all values. With several replicas the
    # sums, dmean and dvariance are those of all replicas, but each returns its
    # own share of dgamma and dbeta, which the optimizer adds up.
    #
    # An activation that can be inverted lets the output take the place of the
    # input: z_i = activation^-1(y_i) and c_i = (z_i - beta) / (gamma s)
    # (Rota Bulo et al. 2018, arXiv 1712.02616).
    #
    # Everything below is plain TensorFlow and nothing is cut off, so
    # TensorFlow differentiates it again for second order.
    def backward(
        self,
        dy: Tensor,
        dmean: Tensor,
        dvariance: Tensor,
        saved: Tensor,
        gamma: Tensor,
        beta: Tensor,
        shift: Tensor,
        rest: Tensor,
        variance: Tensor,
        count: Tensor,
        mask: Any,
        *,
        from_output: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `dx`, `dgamma`, `dbeta`; `saved` is the input or output."""
        dtype = statistics_dtype(saved)
        inv_std = self._inverse_std(variance)
        slope = gamma * inv_std
        activation = self._activation

        def recovered(dy: Tensor, saved: Tensor) -> tuple[Tensor, Tensor]:
            """`dz` and `centered`."""
            if from_output:
                z = activation.inverse(tf.cast(saved, dtype))
                centered = (z - self._expand(beta)) / self._expand(slope)
            else:
                centered = self._centered(saved, shift, rest)
                z = centered * self._expand(slope) + self._expand(beta)
            return tf.cast(dy, dtype) * activation.derivative(z), centered

        def terms(dy: Tensor, saved: Tensor) -> tuple[Tensor, Tensor]:
            dz, centered = recovered(dy, saved)
            return dz, dz * centered

        dbeta, on_slope = self._sums(terms, [dy, saved])
        dgamma = inv_std * on_slope
        all_dgamma, all_dbeta, dmean, dvariance = self._over_replicas(
            dgamma, dbeta, dmean, dvariance
        )
        m = tf.maximum(count, 1.0)
        on_centered = (2.0 * dvariance - slope * inv_std * all_dgamma) / m
        constant = (dmean - slope * all_dbeta) / m
        dz, centered = recovered(dy, saved)
        through_statistics = centered * self._expand(
            on_centered
        ) + self._expand(constant)
        dx = dz * self._expand(slope) + _where(mask, through_statistics)
        return tf.cast(dx, saved.dtype), dgamma, dbeta

    @property
    def _activation(self) -> activations.Activation:
        return activations.BY_NAME[self.activation]

    def _centered(self, x: Tensor, shift: Tensor, rest: Tensor) -> Tensor:
        x = tf.cast(x, shift.dtype)
        return (x - self._expand(shift)) - self._expand(rest)

    def _inverse_std(self, variance: Tensor) -> Tensor:
        # tf.constant, as a cast would send epsilon through float32.
        return tf.math.rsqrt(
            variance + tf.constant(self.epsilon, variance.dtype)
        )

    def _expand(self, feature: Tensor) -> Tensor:
        return expand(feature, self.axes)

    def _sums(
        self, function: Callable[..., Any], tensors: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        in_graph = self.compiled and not self.synchronized
        summed = reductions.folded if in_graph else reductions.staged
        return summed(function, tensors, self.axes)

    def _count(self, x: Tensor) -> Tensor:
        """How many values a feature has, a scalar."""
        sizes = tf.gather(tf.shape(x), self.axes)
        return tf.cast(tf.reduce_prod(sizes), statistics_dtype(x))

    def _sample(self, x: Tensor) -> Tensor:
        """About `_SAMPLE` values of each feature, evenly spread."""
        each = math.ceil(_SAMPLE ** (1.0 / len(self.axes)))
        slices: list[slice] = [slice(None)] * len(x.shape)
        for axis in self.axes:
            if (x.shape[axis] or each + 1) > each:
                step = tf.maximum(tf.shape(x)[axis] // each, 1)
                slices[axis] = slice(None, None, step)
        return (
            x[tuple(slices)] if any(s.step is not None for s in slices) else x
        )

    def _over_replicas(self, *tensors: Tensor) -> list[Tensor]:
        """Sums over all replicas if synchronized, in one collective."""
        if not self.synchronized:
            return list(tensors)
        packed = tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)
        packed = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, packed
        )
        parts = tf.split(packed, [tf.size(t) for t in tensors])
        return [
            tf.reshape(part, tf.shape(t))
            for part, t in zip(parts, tensors, strict=True)
        ]


@functools.cache
def _expressions(
    algorithm: _Algorithm1,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`forward` and `backward`, to be called.

    A compiled one is kept, so that layers of one shape share its code; a
    collective cannot be compiled.
    """
    if algorithm.synchronized or not algorithm.compiled:
        return algorithm.forward, algorithm.backward
    return (
        tf.function(algorithm.forward, autograph=False, jit_compile=True),
        tf.function(algorithm.backward, autograph=False, jit_compile=True),
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
) -> Tensor:
    """Normalizes with given statistics; see `keras_bn.ops`.

    Without batch statistics the map is affine and TensorFlow's own gradient
    is the paper's.
    """
    dtype = statistics_dtype(x)
    slope = tf.math.rsqrt(
        tf.cast(variance, dtype) + tf.constant(epsilon, dtype)
    )
    if gamma is not None:
        slope = slope * tf.cast(gamma, dtype)
    # (x - mean) * slope keeps the digits that x * slope - mean * slope loses.
    y = tf.cast(x, dtype) - expand(tf.cast(mean, dtype), axes)
    y = y * expand(slope, axes)
    if beta is not None:
        y = y + expand(tf.cast(beta, dtype), axes)
    return tf.cast(y, x.dtype)


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


def require_several_values(count: Tensor) -> None:
    """Fails where a feature has a single value, unless XLA compiles it."""
    tf.debugging.assert_none_equal(
        count,
        tf.ones([], count.dtype),
        message=(
            "batch normalization needs more than one value per feature in "
            "training: the variance of a single value is 0"
        ),
    )


def statistics_dtype(x: Tensor) -> Any:
    """float64 for float64, float32 for everything narrower."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def expand(feature: Tensor, axes: Sequence[int]) -> Tensor:
    """Makes a feature-shaped tensor broadcast against one with these axes."""
    if axes[0] == 0 and axes[-1] == len(axes) - 1:
        return feature
    for axis in axes:
        feature = tf.expand_dims(feature, axis)
    return feature


def _where(mask: Any, x: Tensor) -> Tensor:
    """`x` with 0 where the mask leaves values out, whatever they are."""
    return x if mask is None else tf.where(mask, x, tf.zeros([], x.dtype))


def _away_from_zero(gamma: Tensor) -> Tensor:
    least = tf.constant(_LEAST_GAMMA, gamma.dtype)
    return tf.where(
        tf.abs(gamma) < least, tf.where(gamma < 0.0, -least, least), gamma
    )


def _several_replicas() -> bool:
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


def _worth_compiling(x: Tensor) -> bool:
    return math.prod(size or 64 for size in x.shape) >= _WORTH_COMPILING


def _groups(axes: Sequence[int], rank: int) -> list[tuple[list[int], bool]]:
    """Runs of axes that are summed over, and runs that are not."""
    kinds = itertools.groupby(range(rank), lambda axis: axis in axes)
    return [(list(run), summed) for summed, run in kinds]


def _size(x: Tensor, axes: Sequence[int]) -> Any:
    """Product of the sizes of some axes, as a number where it is known."""
    sizes = [x.shape[axis] for axis in axes]
    if None in sizes:
        return tf.reduce_prod(tf.gather(tf.shape(x), axes))
    return math.prod(sizes)
