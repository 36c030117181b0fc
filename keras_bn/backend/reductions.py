# SPDX-License-Identifier: Apache-2.0
"""Sums per feature: what batch normalization spends its time on.

Two ways, for the two ways in which TensorFlow runs an expression:

- `staged`: one kernel after the other. TensorFlow's CPU kernel adds values up
  one after the other when it reduces several leading axes at once, or one
  long one, so the sum is taken in stages to keep its rounding error small.
- `folded`: within an expression that XLA compiles into one loop. XLA's own
  reduction over leading axes is not vectorized on CPU where anything is fused
  into it, but a sum of slices is: sixteen slices are added element by element,
  twice, and what is left is one part in 256. Both sums of a pass ride in one
  complex number, so the tensor is read once. (XLA copies a producer into at
  most fifteen consumers, so sixteen slices also keep it from computing the
  first stage anew within the second.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensor = Any
Pair = tuple[Tensor, Tensor]

#: Slices that one folding adds up.
_SLICES = 16
#: Rows that `staged` adds up one after the other.
_BLOCK = 512


def staged(
    function: Callable[..., Pair],
    tensors: Sequence[Tensor],
    axes: tuple[int, ...],
) -> Pair:
    """Sums of the two tensors that a function gives.

    Args:
        function: Tensors of one shape in, two tensors of that shape out,
            element by element.
        tensors: Its arguments.
        axes: The axes to sum over, ascending.

    Returns:
        Both sums, without the axes.
    """
    first, second = function(*tensors)
    return _in_blocks(first, axes), _in_blocks(second, axes)


def folded(
    function: Callable[..., Pair],
    tensors: Sequence[Tensor],
    axes: tuple[int, ...],
) -> Pair:
    """Likewise, for float32 and float64, to be compiled by XLA."""

    def both(*parts: Tensor) -> Tensor:
        return tf.complex(*function(*parts))

    # An axis that is known to be short has nothing to fold.
    long = [a for a in axes if (tensors[0].shape[a] or _SLICES) >= _SLICES]
    if not long:
        total = tf.reduce_sum(both(*tensors), axes)
    else:
        once, tail = _fold(both, tensors, long[0])
        total = tf.reduce_sum(tail, axes)
        twice, tail = _fold(lambda part: part, [once], long[-1])
        total += tf.reduce_sum(tail, axes) + tf.reduce_sum(twice, axes)
    return tf.math.real(total), tf.math.imag(total)


def _fold(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], axis: int
) -> Pair:
    """Adds the sixteen slices of an axis; and what does not fill them."""
    size = tf.shape(tensors[0])[axis] // _SLICES

    def cut(tensor: Tensor, start: Any, stop: Any = None) -> Tensor:
        return tensor[(slice(None),) * axis + (slice(start, stop),)]

    total = function(*[cut(t, 0, size) for t in tensors])
    for k in range(1, _SLICES):
        total += function(*[cut(t, k * size, (k + 1) * size) for t in tensors])
    return total, function(*[cut(t, _SLICES * size) for t in tensors])


def _in_blocks(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    first, others = axes[0], axes[1:]
    if others:
        x = tf.reduce_sum(x, axis=others, keepdims=True)
    size = x.shape[first]
    if first == 0 and (size is None or size > _BLOCK):
        blocks = tf.shape(x)[0] // _BLOCK
        shape = tf.concat([[blocks, _BLOCK], tf.shape(x)[1:]], 0)
        in_blocks = tf.reshape(x[: blocks * _BLOCK], shape)
        total = tf.reduce_sum(tf.reduce_sum(in_blocks, axis=1), axis=0)
        total += tf.reduce_sum(x[blocks * _BLOCK :], axis=0)
        return tf.squeeze(total, [axis - 1 for axis in others])
    return tf.squeeze(tf.reduce_sum(x, axis=first, keepdims=True), axes)
