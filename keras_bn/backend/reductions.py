# SPDX-License-Identifier: Apache-2.0
"""Sums per feature, in a form that XLA compiles into one fast loop.

XLA's own reduction over leading axes is not vectorized on CPU where anything
is fused into it, but a sum of slices is: sixteen slices are added element by
element, twice, and what is left is one part in 256. Sums of sums also keep
their rounding error small. Two sums ride in one complex number, so that the
tensor is read once. (XLA copies a producer into at most fifteen consumers, so
sixteen slices keep it from computing the first stage anew in the second.)

Up to 256 values of a feature there is nothing left to fold after one stage.
Down to 128 it is still worth to add up four slices, of rows; below, XLA's own
reduction is the better one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensor = Any
Pair = tuple[Tensor, Tensor]

#: Slices that one folding of many values adds up.
_SLICES = 16
#: Values of a feature that count as few: they are folded once, or not at all.
FEW = _SLICES**2
#: Values up to which nothing is folded, and slices of those between.
_UNFOLDED, _SLICES_OF_FEW = 128, 4


def by_number(
    x: Tensor,
    axes: Sequence[int],
    *,
    few: Callable[[], Any],
    many: Callable[[], Any],
    at_most: int,
) -> Any:
    """One of two computations, by the number of values of a feature.

    Within what XLA compiles all sizes are known at last, so that only one of
    the two is compiled.

    Args:
        x: Has these values.
        axes: The axes that they lie along.
        few: For 1 to `at_most` values.
        many: For more, and for none.
        at_most: Values that count as few.
    """
    sizes = [x.shape[axis] for axis in axes]
    if None not in sizes:
        return few() if 0 < math.prod(sizes) <= at_most else many()
    number = tf.reduce_prod(tf.gather(tf.shape(x), axes))
    return tf.cond((number > 0) & (number <= at_most), few, many)


def folded(
    function: Callable[..., Pair],
    tensors: Sequence[Tensor],
    axes: tuple[int, ...],
) -> Pair:
    """Sums of the two tensors that a function gives.

    Args:
        function: Tensors of one shape in, two tensors of that shape out,
            float32 or float64, element by element.
        tensors: Its arguments.
        axes: The axes to sum over, ascending, no two of them neighbours.

    Returns:
        Both sums, without the axes.
    """

    def plain() -> Pair:
        first, second = function(*tensors)
        return tf.reduce_sum(first, axes), tf.reduce_sum(second, axes)

    def once() -> Pair:
        both = _packed(function)
        total, tail = _fold(both, tensors, 0, slices=_SLICES_OF_FEW)
        return _unpacked(tf.reduce_sum(total, 0) + tf.reduce_sum(tail, 0))

    def twice() -> Pair:
        return _folded_twice(function, tensors, axes)

    def some() -> Pair:
        if unfolded(axes) == FEW:
            return twice()
        return by_number(tensors[0], axes, few=once, many=twice, at_most=FEW)

    return by_number(
        tensors[0], axes, few=plain, many=some, at_most=unfolded(axes)
    )


def unfolded(axes: tuple[int, ...]) -> int:
    """Values of a feature up to which nothing is folded."""
    return _UNFOLDED if axes == (0,) else FEW


def _folded_twice(
    function: Callable[..., Pair],
    tensors: Sequence[Tensor],
    axes: tuple[int, ...],
) -> Pair:
    both = _packed(function)
    # An axis that is known to be short has nothing to fold.
    long = [a for a in axes if (tensors[0].shape[a] or _SLICES) >= _SLICES]
    if not long:
        total = tf.reduce_sum(both(*tensors), axes)
    else:
        once, tail = _fold(both, tensors, long[0], slices=_SLICES)
        total = tf.reduce_sum(tail, axes)
        twice, tail = _fold(lambda part: part, [once], long[-1], slices=_SLICES)
        total += tf.reduce_sum(tail, axes) + tf.reduce_sum(twice, axes)
    return _unpacked(total)


def _packed(function: Callable[..., Pair]) -> Callable[..., Tensor]:
    """The function, its two tensors as one."""
    return lambda *parts: tf.complex(*function(*parts))


def _unpacked(total: Tensor) -> Pair:
    return tf.math.real(total), tf.math.imag(total)


def mean_of_sample(x: Tensor, axes: tuple[int, ...], dtype: Any) -> Tensor:
    """Mean over some sixteen evenly spread places along each of the axes.

    Args:
        x: Any floating dtype.
        axes: The axes to take the mean over, ascending.
        dtype: What to compute in.

    Returns:
        The mean, without the axes; 0 where there are no values.
    """
    places = [slice(None)] * len(x.shape)
    for axis in axes:
        step = tf.maximum(tf.shape(x)[axis] // _SLICES, 1)
        places[axis] = slice(None, None, step)
    sample = tf.cast(x[tuple(places)], dtype)
    values = tf.reduce_prod(tf.gather(tf.shape(sample), axes))
    total = tf.reduce_sum(sample, axes)
    mean = total / tf.cast(tf.maximum(values, 1), dtype)
    # Slices with a step of unknown size leave even the rank open.
    features = [a for a in range(len(x.shape)) if a not in axes]
    return tf.ensure_shape(mean, [x.shape[a] for a in features])


def _fold(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    axis: int,
    *,
    slices: int,
) -> Pair:
    """Adds the slices of an axis; and what does not fill them."""
    size = tf.shape(tensors[0])[axis] // slices

    def cut(tensor: Tensor, start: Any, stop: Any = None) -> Tensor:
        return tensor[(slice(None),) * axis + (slice(start, stop),)]

    total = function(*[cut(t, 0, size) for t in tensors])
    for k in range(1, slices):
        total += function(*[cut(t, k * size, (k + 1) * size) for t in tensors])
    return total, function(*[cut(t, slices * size) for t in tensors])
