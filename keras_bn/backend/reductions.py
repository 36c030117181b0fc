# SPDX-License-Identifier: Apache-2.0
"""Sums per feature, in a form that XLA compiles into fast loops.

On a CPU, XLA's own reduction over leading axes is not vectorized if anything is
fused into it, but a sum of slices is: sixteen slices are added element by
element, twice, which leaves one part in 256. Sums of sums also keep the
rounding error small. Two sums are packed into one complex number, so that the
tensor is read once. (XLA copies a producer into at most fifteen consumers, so
sixteen slices keep it from recomputing the first stage in the second.)

If rows are the only axis, fewer than 1,024 leave too little to fold after one
stage, of eight slices, or four up to 256 rows. Up to 128 rows, and 256 values
over other axes, XLA's own reduction is better.

On a GPU, XLA's own reduction is fast and exact to 1e-6, and the number of
kernels counts; two sums are one complex number there, too.

TensorFlow's plain reductions are as exact, and faster, if taken in steps: over
blocks of 64 rows, over blocks of the results, and over the rest.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensor = Any
Pair = tuple[Tensor, Tensor]

#: Slices that one folding of many values adds up.
_SLICES = 16
#: Values of a feature that count as few.
FEW = _SLICES**2
#: Values up to which nothing is folded, and slices from there to `FEW`.
_UNFOLDED, _SLICES_OF_FEW = 128, 4
#: Values up to which rows are folded once, and slices from `FEW` to there.
_FOLDED_ONCE, _SLICES_IF_ONCE = 1023, 8
#: Step of a sample as a fraction of an axis, 5/83: about a seventeenth, so that
#: successive images are sampled at different pixels. A sixteenth may be a whole
#: number of images, which would make the sample nothing but corners.
_STEP = (5, 83)
#: Rows that plain operations add up at once.
_BLOCK = 64


def are_few(x: Tensor, axes: Sequence[int], *, at_most: int) -> bool:
    """Whether a feature is known to have 1 to `at_most` values.

    Not decided when the graph runs, though XLA then knows the sizes: it cannot
    compile the gradient of a conditional whose branches save different tensors.
    """
    return 0 < (known_size(x, axes) or 0) <= at_most


def known_size(x: Tensor, axes: Sequence[int]) -> int | None:
    """The product of the sizes of some axes, if all are known."""
    sizes = [x.shape[axis] for axis in axes]
    return None if None in sizes else math.prod(sizes)


def folded(
    function: Callable[..., Pair],
    tensors: Sequence[Tensor],
    axes: tuple[int, ...],
) -> Pair:
    """Sums of the two tensors that a function returns.

    Args:
        function: Element-wise: takes tensors of one shape, returns two of
            that shape, float32 or float64.
        tensors: Its arguments.
        axes: The axes to sum over, ascending, no two of them neighbours.

    Returns:
        Both sums, without the axes.
    """
    x = tensors[0]
    if are_few(x, axes, at_most=unfolded(axes)):
        first, second = function(*tensors)
        return tf.reduce_sum(first, axes), tf.reduce_sum(second, axes)
    if axes == (0,) and are_few(x, axes, at_most=_FOLDED_ONCE):
        few = are_few(x, axes, at_most=FEW)
        slices = _SLICES_OF_FEW if few else _SLICES_IF_ONCE
        total, tail = _fold(_packed(function), tensors, 0, slices=slices)
        return _unpacked(tf.reduce_sum(total, 0) + tf.reduce_sum(tail, 0))
    return _folded_twice(function, tensors, axes)


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


def in_blocks(
    function: Callable[..., Pair],
    tensors: Sequence[Tensor],
    axes: tuple[int, ...],
) -> Pair:
    """What `folded` returns, by plain operations and for any function.

    They add up blocks of rows first or, of several axes, the last.
    """
    first, second = function(*tensors)
    if axes == (0,):
        rows = tf.shape(tensors[0])[0]
        return _block_by_block(first, rows), _block_by_block(second, rows)
    return _last_axis_first(first, axes), _last_axis_first(second, axes)


def _last_axis_first(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    *others, last = axes
    x = tf.reduce_sum(x, last)
    return tf.reduce_sum(x, others) if others else x


def _block_by_block(x: Tensor, rows: Tensor) -> Tensor:
    """Sum of the rows, whose number is an argument: shared, it costs once."""
    blocks, rest = _cut(x, rows)
    blocks, others = _cut(tf.reduce_sum(blocks, 1), rows // _BLOCK)
    few = [tf.reduce_sum(blocks, 1), others, rest]
    return tf.reduce_sum(tf.concat(few, 0), 0)


def _cut(x: Tensor, rows: Tensor) -> Pair:
    """Blocks of rows `[B, 64, ..]`, and the rows that do not fill one."""
    whole = rows // _BLOCK * _BLOCK
    return tf.reshape(x[:whole], [-1, _BLOCK, *x.shape[1:]]), x[whole:]


def packed(
    function: Callable[..., Pair],
    tensors: Sequence[Tensor],
    axes: tuple[int, ...],
) -> Pair:
    """What `folded` returns, for a GPU and any axes.

    XLA's reduction runs in two kernels, also for a complex number. Two real
    sums would share only the first of them.
    """
    return _unpacked(tf.reduce_sum(_packed(function)(*tensors), axes))


def value_in_the_middle(x: Tensor, axes: tuple[int, ...], dtype: Any) -> Tensor:
    """The value of each feature in the middle of the axes.

    Not one at an edge, which may be unlike the rest. It is taken as a slice of
    size 1, and summed: an index has to be within the axis, which may be empty.

    Args:
        x: Any floating dtype.
        axes: The axes to take the middle of, ascending.
        dtype: That of the result.

    Returns:
        The values, without the axes; 0 where there are none.
    """
    middle = tf.shape(x) // 2
    features = [axis for axis in range(len(x.shape)) if axis not in axes]
    whole = sum(1 << axis for axis in features)
    one = tf.strided_slice(
        x, middle, middle + 1, begin_mask=whole, end_mask=whole
    )
    return tf.cast(tf.reduce_sum(one, axes), dtype)


def mean_of_sample(x: Tensor, axes: tuple[int, ...], dtype: Any) -> Tensor:
    """Mean of a sample: 17 to 33 places of each axis, or all below 83.

    Args:
        x: Any floating dtype.
        axes: The axes to take the mean over, ascending.
        dtype: What to compute in.

    Returns:
        The mean, without the axes; 0 where there are no values.
    """
    places = [slice(None)] * len(x.shape)
    for axis in axes:
        step = tf.maximum(tf.shape(x)[axis] // _STEP[1] * _STEP[0], 1)
        places[axis] = slice(None, None, step)
    sample = tf.cast(x[tuple(places)], dtype)
    sizes = tf.shape(sample)
    one = len(axes) == 1
    values = sizes[axes[0]] if one else tf.reduce_prod(tf.gather(sizes, axes))
    total = tf.reduce_sum(sample, axes)
    mean = tf.math.divide_no_nan(total, tf.cast(values, dtype))
    mean.set_shape(_features(x, axes))
    return mean


def mean_of_sparse_sample(
    x: Tensor, axes: tuple[int, ...], dtype: Any
) -> Tensor:
    """Mean of a sample for a GPU, where neighbouring axes are not merged.

    Of the first axis it has 17 to 33 places, or all below 83; of every other
    axis 3 to 5, or all below 3. They are the middles of equal parts, as edges
    may be unlike the rest.

    They are gathered, not sliced: of a slice with a step, XLA's Triton kernels
    read what lies beyond the tensor (TensorFlow 2.21).

    The terms are divided, not their sum: a product after the sum might be
    rounded together with the subtraction that follows, differently at each use.

    Arguments and result are those of `mean_of_sample`.
    """
    sample = x
    for axis in axes:
        size = tf.shape(x)[axis]
        step = size // _STEP[1] * _STEP[0] if axis == axes[0] else size // 3
        step = tf.maximum(step, 1)
        places = tf.range(step // 2, size, step)
        sample = tf.gather(sample, places, axis=axis)
    values = tf.reduce_prod(tf.gather(tf.shape(sample), axes))
    sample = tf.cast(sample, dtype) * (1.0 / tf.cast(values, dtype))
    return tf.reduce_sum(sample, axes)


def _features(x: Tensor, axes: tuple[int, ...]) -> list[int | None]:
    """The shape of what is left without the axes, for `set_shape`.

    Slicing with an unknown step loses even the rank. (Forward mode in a graph
    does not support `tf.ensure_shape`.)
    """
    return [x.shape[a] for a in range(len(x.shape)) if a not in axes]


def _fold(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    axis: int,
    *,
    slices: int,
) -> Pair:
    """The sum of the slices of an axis, and the part that is left over."""
    size = tf.shape(tensors[0])[axis]
    sizes = [size // slices] * slices + [size % slices]
    parts = [tf.split(t, sizes, axis, num=slices + 1) for t in tensors]
    *whole, tail = itertools.starmap(function, zip(*parts, strict=True))
    return tf.add_n(whole), tail
