# SPDX-License-Identifier: Apache-2.0
"""Ghost batch normalization (Hoffer et al. 2017, arXiv 1705.08741).

A batch is cut into virtual batches that are normalized separately: the index of
the virtual batch becomes an additional feature axis, in front.
"""

from typing import Any

import keras

Tensor = Any


def split(x: Tensor, mask: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Cuts the batch into virtual batches of `size`.

    The last virtual batch is padded with zeros, which the mask excludes.

    Args:
        x: `[N, ...]`.
        mask: Boolean, broadcastable to `x` from its first axis on; `None`
            takes all values.
        size: Examples of a virtual batch.

    Returns:
        `x` as `[ceil(N / size), size, ...]` and the mask, in a shape that
        broadcasts to it; `None` where nothing is left out.
    """
    parts = _cut(x, size)
    examples = x.shape[0]
    if mask is None and examples is not None and examples % size == 0:
        return parts, None
    counted = keras.ops.ones(
        [keras.ops.shape(x)[0], *[1] * (len(x.shape) - 1)], "bool"
    )
    if mask is not None:
        # A mask may have one row for all examples; padding needs one for each.
        counted = keras.ops.logical_and(counted, mask)
    return parts, _cut(counted, size)


def smallest(examples: int | None, size: int) -> int | None:
    """Examples of the smallest virtual batch, the last one.

    Args:
        examples: Examples of the batch, if their number is known.
        size: Examples of a virtual batch.
    """
    if size == 1:
        return 1
    return examples and (examples % size or size)


def join(parts: Tensor, x: Tensor) -> Tensor:
    """The inverse of `split`: `[M, size, ...]` to the shape of `x`."""
    shape = keras.ops.shape(parts)
    joined = keras.ops.reshape(parts, [-1, *shape[2:]])
    return joined[: keras.ops.shape(x)[0]]


def pooled(statistic: Tensor, count: Tensor) -> Tensor:
    """Mean of a statistic over virtual batches, weighted by their values.

    Args:
        statistic: `[M, *features]`.
        count: Number of values behind each, a scalar or `[M, *features]`.

    Returns:
        `[*features]`; 0 where there are no values at all.
    """
    weights = count * keras.ops.ones_like(statistic)
    weights /= keras.ops.maximum(keras.ops.sum(weights, axis=0), 1.0)
    return keras.ops.sum(weights * statistic, axis=0)


def largest(count: Tensor, statistic: Tensor) -> Tensor:
    """The largest count of a feature over virtual batches.

    Args:
        count: A scalar, the same for all, or `[M, *features]`.
        statistic: `[M, *features]`; `M` is 0 for an empty batch.

    Returns:
        `[*features]`.
    """
    counts = count * keras.ops.ones_like(statistic)
    return keras.ops.max(counts, axis=0, initial=0.0)


def _cut(x: Tensor, size: int) -> Tensor:
    examples = keras.ops.shape(x)[0]
    missing = -examples % size
    padding = [[0, missing], *[[0, 0]] * (len(x.shape) - 1)]
    if not isinstance(missing, int) or missing:
        x = keras.ops.pad(x, padding)
    return keras.ops.reshape(x, [-1, size, *keras.ops.shape(x)[1:]])
