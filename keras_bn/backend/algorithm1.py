# SPDX-License-Identifier: Apache-2.0
"""Batch normalization and its gradient, as expressions of TensorFlow.

Ioffe & Szegedy 2015 (arXiv 1502.03167), Algorithm 1. For one feature with the
`m` values `x_1 .. x_m` of a mini-batch:

    mean  = 1/m sum_i x_i
    var   = 1/m sum_i (x_i - mean)^2                  (biased)
    x_hat = (x - mean) / sqrt(var + epsilon)
    y     = activation(gamma x_hat + beta)

| symbol           | code             | shape   |
| ---------------- | ---------------- | ------- |
| mean             | sum of `center`  | feature |
| var              | `variance`       | feature |
| 1/sqrt(..)       | `inv_std`        | feature |
| gamma/sqrt(..)   | `slope`          | feature |
| x - mean         | `centered`       | as `x`  |
| gamma x_hat+beta | `z`              | as `x`  |
| m                | `count`          | feature |
| dl/dy, dl/dz     | `dy`, `dz`       | as `x`  |
| dl/dmean         | `dmean`          | feature |
| dl/dvar          | `dvariance`      | feature |
"""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_bn.backend import activations, reductions, xla

Tensor = Any  # tf.Tensor is untyped for mypy.
Center = tuple[Tensor, ...]
Moments = tuple[Center, Tensor, Tensor]

#: Most values of a feature for which a float32 mean, corrected once, is exact:
#: each sum is off by at most 1024 roundings, both together by 4e-9 of the mean.
PLAIN_FEW = 1024
#: Most values of a tensor for which a plain operation takes about as long to
#: start as to run, so that one on a whole tensor may replace two on features.
SMALL = 2**14


class Engine(enum.Enum):
    """What runs the expressions, on which depends how sums are taken."""

    #: As few plain operations as possible, which is best for small tensors, and
    #: for large ones on a GPU.
    PLAIN = enum.auto()
    #: Plain operations in few passes, which is best for large tensors on a CPU.
    BLOCKS = enum.auto()
    XLA_ON_CPU = enum.auto()
    XLA_ON_GPU = enum.auto()

    @property
    def compiles(self) -> bool:
        """Whether this is XLA."""
        return self in {Engine.XLA_ON_CPU, Engine.XLA_ON_GPU}


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass."""

    values: Tensor
    gamma: Tensor
    beta: Tensor
    center: Center
    variance: Tensor
    count: Tensor
    mask: Any


@dataclasses.dataclass(frozen=True)
class Algorithm1:
    """The paper's Algorithm 1 and its gradient, with all options fixed.

    The mean is kept as a sum of one or two tensors, the `center`, because it
    may have more digits than its dtype can hold.

    Attributes:
        axes: The axes that the statistics are taken over, ascending.
        epsilon: Added to the variance.
        activation: Name in `activations.BY_NAME`.
        from_output: Whether the backward pass starts from the output, and not
            from the input.
        engine: What runs the expressions.
    """

    axes: tuple[int, ...]
    epsilon: float
    activation: str
    from_output: bool
    engine: Engine

    def moments(self, x: Tensor, size: Tensor, mask: Any) -> Moments:
        """Center, biased variance and count of the values of this replica.

        `size` is the number of values of a feature, ignoring the mask. It is
        an argument because XLA would turn division by a constant into a
        product and recompute that for each value.
        """
        few = {
            Engine.PLAIN: PLAIN_FEW,
            Engine.XLA_ON_CPU: reductions.unfolded(self.axes),
        }.get(self.engine, 0)
        if mask is None and reductions.are_few(x, self.axes, at_most=few):
            return self._moments_of_few(x, size)
        return self._moments_of_many(x, size, mask)

    def _moments_of_few(self, x: Tensor, size: Tensor) -> Moments:
        """Moments in the fewest operations, which count for small tensors.

        The operations are also the simplest, which XLA compiles best.

        The mean is taken twice, the second time over the remainders.
        """
        shift = tf.reduce_mean(tf.cast(x, statistics_dtype(x)), self.axes)
        shift = xla.rounded(shift)
        rest = tf.reduce_mean(self._centered(x, (shift,)), self.axes)
        center = shift, rest
        square = tf.square(self._centered(x, center))
        return center, tf.reduce_mean(square, self.axes), size

    def _moments_of_many(self, x: Tensor, size: Tensor, mask: Any) -> Moments:
        """Moments as precise as `x`, even where |mean| is large.

        The rounding error of a float32 sum grows with |mean| times the number
        of values. So `shift`, a value close to the mean, is subtracted first;
        the mean of the remainders, `rest`, is small and accurate. Then
        mean = `shift + rest`.

        Under XLA or in blocks, var = mean of (x - shift)^2 - rest^2, in the
        same pass, which loses the digits of rest^2 / var. That ratio is below
        1 unless the sample whose mean is `shift` is unlike all other values.
        Otherwise var takes a second pass, around the mean: plain sums are less
        exact, and would lose more.
        """
        dtype = statistics_dtype(x)
        if mask is None:
            count = size
            shift = self._first_shift(x, count)
        else:
            shift, count = self._sums(
                lambda x, mask: (
                    _where(mask, tf.cast(x, dtype)),
                    tf.cast(mask, dtype),
                ),
                [x, mask],
            )
            shift = xla.rounded(shift / tf.maximum(count, 1.0))
        around = self._expand(shift)

        m = tf.maximum(count, 1.0)
        if self.engine is Engine.PLAIN:
            shifted = _where(mask, tf.cast(x, dtype) - around)
            rest = tf.reduce_sum(shifted, self.axes) / m
            square = tf.square(_where(mask, shifted - self._expand(rest)))
            return (shift, rest), tf.reduce_sum(square, self.axes) / m, count

        def powers(x: Tensor, mask: Any = None) -> tuple[Tensor, Tensor]:
            shifted = _where(mask, tf.cast(x, dtype) - around)
            return shifted, tf.square(shifted)

        total, square = self._sums(powers, [x] if mask is None else [x, mask])
        rest = total / m
        variance = square / m - tf.square(rest)
        # Not tf.maximum, which may turn NaN into 0 under XLA.
        variance = tf.where(variance < 0.0, tf.zeros_like(variance), variance)
        return (shift, rest), variance, count

    def _first_shift(self, x: Tensor, count: Tensor) -> Tensor:
        """What to subtract first.

        The mean of a sample; between plain operations, for which a sample takes
        too many, the mean itself, from sums that start at a single value.

        A constant to derivatives, as whatever is subtracted is added.
        """
        dtype = statistics_dtype(x)
        if self.engine is Engine.XLA_ON_GPU:
            mean = reductions.mean_of_sparse_sample(x, self.axes, dtype)
        elif self.engine is Engine.PLAIN:
            value = reductions.value_in_the_middle(x, self.axes, dtype)
            around = self._expand(value)
            total = tf.reduce_sum(tf.cast(x, dtype) - around, self.axes)
            mean = xla.rounded(value + total / tf.maximum(count, 1.0))
        else:
            mean = xla.rounded(reductions.mean_of_sample(x, self.axes, dtype))
        return tf.stop_gradient(mean)

    def _sums(
        self,
        function: Callable[..., tuple[Tensor, Tensor]],
        tensors: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Sums per feature of the two tensors that a function gives."""
        if self.engine is Engine.XLA_ON_CPU:
            return reductions.folded(function, tensors, self.axes)
        if self.engine is Engine.XLA_ON_GPU:
            return reductions.packed(function, tensors, self.axes)
        if self.engine is Engine.BLOCKS:
            return reductions.in_blocks(function, tensors, self.axes)
        first, second = function(*tensors)
        return tf.reduce_sum(first, self.axes), tf.reduce_sum(second, self.axes)

    def normalize(
        self,
        x: Tensor,
        center: Center,
        variance: Tensor,
        gamma: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """The output."""
        slope = gamma * self._inverse_std(variance)
        shift = _less(beta, slope, self._left_over(center))
        z = self._affine(self._centered(x, center), slope, shift)
        return tf.cast(self._activation.function(z), x.dtype)

    def normalize_in_one(
        self,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        gamma: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """The output by TensorFlow's kernel.

        For float32 images `[N, H, W, C]` and volumes `[N, D, H, W, C]`.
        """
        z, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            is_training=False,
            data_format="NHWC" if len(x.shape) == 4 else "NDHWC",
        )
        return self._activation.function(z)

    def forward(
        self, x: Tensor, size: Tensor, gamma: Tensor, beta: Tensor, mask: Any
    ) -> tuple[Tensor, Center, Tensor, Tensor]:
        """Output, center, biased variance and count."""
        center, variance, count = self.moments(x, size, mask)
        y = self.normalize(x, center, variance, gamma, beta)
        return y, center, variance, count

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
    # it becomes, exact for every epsilon,
    #
    #   dx_i = (gamma s) (dz_i - (s dgamma / m) c_i - dbeta / m)
    #
    # and, where the statistics are used, affine in dz_i and c_i all the same:
    #
    #   dx_i = (gamma s) dz_i
    #        - ((gamma s^2 dgamma - 2 dvariance) / m) c_i
    #        - (gamma s dbeta - dmean) / m
    #
    # A value that the mask excludes is normalized too but does not enter mean
    # and var: its dx_i is (gamma s) dz_i alone, and the sums over dz still run
    # over all values. With several replicas the sums, dmean and dvariance are
    # those of all replicas, but each replica returns its own share of dgamma
    # and dbeta, which the optimizer adds up.
    #
    # An activation that can be inverted lets the output take the place of the
    # input: z_i = activation^-1(y_i) and c_i = (z_i - beta) / (gamma s)
    # (Rota Bulo et al. 2018, arXiv 1712.02616).
    #
    # Everything below is plain TensorFlow without stopped gradients, so that
    # TensorFlow can differentiate it again for second order.
    def parameter_gradients(
        self, dy: Tensor, saved: Saved
    ) -> tuple[Tensor, Tensor]:
        """`dgamma` and `dbeta` of the values of this replica."""
        saved = _without_bad_padding(saved)

        def terms(dy: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            dz, centered = self._recovered(dy, saved, values)
            return dz, dz * centered

        dbeta, total = self._sums(terms, [dy, saved.values])
        total = _less(total, dbeta, self._left_over_of(saved))
        inv_std = self._inverse_std(saved.variance)
        if not self.epsilon:  # An empty batch gives 0 times infinity.
            return tf.math.multiply_no_nan(inv_std, total), dbeta
        return inv_std * total, dbeta

    def input_gradient(
        self,
        dy: Tensor,
        saved: Saved,
        dgamma: Tensor,
        dbeta: Tensor,
        dmean: Tensor | None,
        dvariance: Tensor | None,
    ) -> Tensor:
        """`dx`, from the cotangents of all replicas.

        `dmean` and `dvariance` are `None` where the statistics are not used.
        """
        saved = _without_bad_padding(saved)
        inv_std = self._inverse_std(saved.variance)
        slope = saved.gamma * inv_std
        m = tf.maximum(saved.count, 1.0)
        used = dmean is not None or dvariance is not None
        small = not used and saved.mask is None and self._is_small(saved.values)
        if small:  # Divided by m at the end.
            on_centered = inv_std * dgamma
            constant = dbeta
        else:
            on_centered = inv_std / m * dgamma
            constant = dbeta / m
        if used:
            on_centered *= slope
            constant *= slope
        if dvariance is not None:
            on_centered -= dvariance * (2.0 / m)
        if dmean is not None:
            constant -= dmean / m
        dz, centered = self._recovered(dy, saved, saved.values)
        constant = _less(constant, on_centered, self._left_over_of(saved))
        through_statistics = self._affine(centered, on_centered, constant)
        if small:  # TensorFlow computes 1 / m in advance.
            through_statistics *= 1.0 / m
        through_statistics = _where(saved.mask, through_statistics)
        if used:
            dx = dz * self._expand(slope) - through_statistics
        else:
            dx = (dz - through_statistics) * self._expand(slope)
        return tf.cast(dx, saved.values.dtype)

    def backward(
        self,
        dy: Tensor,
        saved: Saved,
        dmean: Tensor | None,
        dvariance: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`dx`, `dgamma`, `dbeta`."""
        dgamma, dbeta = self.parameter_gradients(dy, saved)
        dx = self.input_gradient(dy, saved, dgamma, dbeta, dmean, dvariance)
        return dx, dgamma, dbeta

    # If mean and variance are given, as at inference, only the first term of
    # dx remains, and their own gradients are those of the chain above.
    def input_gradient_of_constants(self, dy: Tensor, saved: Saved) -> Tensor:
        """`dx` where mean and variance do not depend on `x`."""
        slope = saved.gamma * self._inverse_std(saved.variance)
        dz, _ = self._recovered(dy, saved, saved.values)
        return tf.cast(dz * self._expand(slope), saved.values.dtype)

    def constants_gradient(
        self, saved: Saved, dgamma: Tensor, dbeta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`dmean` and `dvariance` where they do not depend on `x`."""
        inv_std = self._inverse_std(saved.variance)
        dmean = -saved.gamma * inv_std * dbeta
        dvariance = -0.5 * saved.gamma * tf.square(inv_std) * dgamma
        return dmean, dvariance

    def _recovered(
        self, dy: Tensor, saved: Saved, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`dz` and `_centered`, from the input or from the output."""
        dtype = saved.variance.dtype
        slope = saved.gamma * self._inverse_std(saved.variance)
        if self.from_output:
            z = self._activation.inverted(values, dtype)
            centered = (z - self._expand(saved.beta)) / self._expand(slope)
        else:
            centered = self._centered(values, saved.center)
            shift = _less(saved.beta, slope, self._left_over(saved.center))
            z = self._affine(centered, slope, shift)
        return self._activation.pullback(tf.cast(dy, dtype), z), centered

    def _centered(self, x: Tensor, center: Center) -> Tensor:
        """`x` minus the parts of its mean not left to the coefficients."""
        centered = tf.cast(x, statistics_dtype(x))
        for part in center[: len(center) - len(self._left_over(center))]:
            centered -= self._expand(part)
        return centered

    def _left_over(self, center: Center) -> Center:
        """The parts of a center left to coefficients.

        Between plain operations this saves a pass; on a GPU, a subtraction in
        each of three kernels.
        """
        left = self.engine in {Engine.BLOCKS, Engine.XLA_ON_GPU}
        return center[1:] if left else ()

    def _left_over_of(self, saved: Saved) -> Center:
        """The same in the backward pass, where an output leaves nothing."""
        return () if self.from_output else self._left_over(saved.center)

    def _is_small(self, x: Tensor) -> bool:
        """Whether few operations are better than few passes over `x`."""
        values = x.shape.num_elements()
        known = values is not None
        return self.engine is Engine.PLAIN and known and values <= SMALL

    def _affine(self, x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
        """`slope x + shift` per feature; a graph runs equal ones once."""
        product = x * self._expand(slope)
        channels_last = self.axes == tuple(range(len(x.shape) - 1))
        if channels_last and not self.engine.compiles:
            return tf.nn.bias_add(product, shift)  # The fastest with a row.
        return product + self._expand(shift)

    def _inverse_std(self, variance: Tensor) -> Tensor:
        # tf.constant: a cast would round epsilon to float32.
        return tf.math.rsqrt(
            variance + tf.constant(self.epsilon, variance.dtype)
        )

    def _expand(self, feature: Tensor) -> Tensor:
        return expand(feature, self.axes)

    @property
    def _activation(self) -> activations.Activation:
        return activations.BY_NAME[self.activation]


def statistics_dtype(x: Tensor) -> Any:
    """float64 for float64, float32 for everything narrower."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def as_center(mean: Tensor, dtype: Any) -> Center:
    """Splits a float64 mean into a center of the given dtype."""
    shift = tf.cast(mean, dtype)
    return shift, tf.cast(mean - tf.cast(shift, mean.dtype), dtype)


def rounded_mean(center: Center, dtype: Any) -> Tensor:
    """The mean as one number, as exact as the dtype allows."""
    first, *others = (tf.cast(part, dtype) for part in center)
    return sum(others, first)


def _less(shift: Tensor, slope: Tensor, parts: Center) -> Tensor:
    """`shift - slope * part`, of all parts."""
    for part in parts:
        shift -= slope * part
    return shift


def expand(feature: Tensor, axes: Sequence[int]) -> Tensor:
    """Makes a feature-shaped tensor broadcast against one with these axes."""
    if axes[0] == 0 and axes[-1] == len(axes) - 1:
        return feature
    for axis in axes:
        feature = tf.expand_dims(feature, axis)
    return feature


def _without_bad_padding(saved: Saved) -> Saved:
    """Replaces non-finite values that the mask excludes by 0.

    Their cotangents are 0 unless the loss itself is not finite, but 0 times
    NaN is NaN.
    """
    if saved.mask is None:
        return saved
    good = tf.logical_or(saved.mask, tf.math.is_finite(saved.values))
    return saved._replace(values=_where(good, saved.values))


def _where(mask: Any, x: Tensor) -> Tensor:
    """`x` with 0 for every value that the mask excludes, even NaN."""
    return x if mask is None else tf.where(mask, x, tf.zeros([], x.dtype))
