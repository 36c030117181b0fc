# SPDX-License-Identifier: Apache-2.0
"""Reads images and labels by index, within a `tf.data.Dataset`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data.records import Images

#: The image's field in the common ImageNet TFRecords.
ENCODED = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}


def taken(
    images: Any,
    rows: Callable[[int], NDArray[np.integer[Any]]],
    number: Any,
) -> tuple[Any, Any]:
    """Images and labels of some rows.

    Args:
        images: Where to take them from: `Images`, or
            `keras_bn.data.resident.Pixels`.
        rows: Maps a number to rows `[n]`; called for every element.
        number: A tensor, passed to `rows` as an integer.

    Returns:
        Encoded images `[n]` or pixels `[n, H, W, 3]`, and labels `[n]`.
    """
    encoded = isinstance(images, Images)
    data, labels = tf.numpy_function(
        lambda number: images.take(rows(int(number))),
        [number],
        (tf.string if encoded else tf.uint8, tf.int32),
    )
    shape = () if encoded else images.pixels.shape[1:]
    data = tf.ensure_shape(data, (None, *shape))
    if encoded and images.in_examples:
        data = tf.io.parse_example(data, ENCODED)["image/encoded"]
    return data, tf.ensure_shape(labels, (None,))


def encoded(images: Images, row: int) -> Any:
    """The encoded image of a row, a scalar string, out of its Example."""
    data, _ = taken(images, lambda row: np.array([row]), row)
    return data[0]


def chunks(images: Images, size: int) -> Any:
    """All encoded images in their order, `[n]` with n <= `size` at a time."""

    def rows(first: int) -> NDArray[np.int64]:
        return np.arange(first, min(first + size, len(images)))

    return tf.data.Dataset.range(0, len(images), size).map(
        lambda first: taken(images, rows, first)[0]
    )
