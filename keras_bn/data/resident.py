# SPDX-License-Identifier: Apache-2.0
"""Small images kept decoded, so that each is decoded once in a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data.decoding import decoded
from keras_bn.data.records import Images

#: Most bytes of pixels of one part of a data set: 87,381 images of 64x64.
LARGEST = 2**30
#: Images decoded at a time.
CHUNK = 256
#: The image's field in the common ImageNet TFRecords.
ENCODED = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Labelled images of one size, decoded.

    Attributes:
        pixels: `[N, H, W, 3]`, uint8.
        labels: Their classes `[N]`, int32, from 0.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int32]

    def take(
        self, rows: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """The pixels of some rows, `[n, H, W, 3]`, and their labels `[n]`."""
        return self.pixels[rows], self.labels[rows]


def kept(images: Images) -> Images | Pixels:
    """The pixels, if all images have one size and fit into `LARGEST`.

    Otherwise the images as they are, to be decoded at each use. Photographs
    mostly differ in size, which the first few show.
    """
    data, _ = taken(images, lambda _: np.arange(1), 0)
    shape = decoded(data[0]).shape
    pixels = np.empty((len(images), *shape), np.uint8)
    if pixels.nbytes > LARGEST:
        return images

    def rows(first: int) -> NDArray[np.int64]:
        return np.arange(first, min(first + CHUNK, len(images)))

    def decode(image: Any) -> Any:
        return tf.ensure_shape(decoded(image), shape)

    chunks = (
        tf.data.Dataset.range(0, len(images), CHUNK)
        .map(lambda first: taken(images, rows, first)[0])
        .map(
            lambda data: tf.map_fn(
                decode,
                data,
                fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    )
    try:
        for number, chunk in enumerate(chunks.as_numpy_iterator()):
            pixels[rows(number * CHUNK)] = chunk
    except tf.errors.InvalidArgumentError:  # Another size.
        return images
    return Pixels(pixels, images.labels)


def taken(
    images: Images | Pixels,
    rows: Callable[[int], NDArray[np.integer[Any]]],
    number: Any,
) -> tuple[Any, Any]:
    """Images and labels of some rows, within a data set.

    Args:
        images: Where to take them from.
        rows: From a number to rows `[n]`; called each time.
        number: Given to `rows`; a tensor.

    Returns:
        Encoded images `[n]` or pixels `[n, H, W, 3]`, and labels `[n]`.
    """
    if isinstance(images, Pixels):
        kind, shape, in_examples = tf.uint8, images.pixels.shape[1:], False
    else:
        kind, shape, in_examples = tf.string, (), images.in_examples
    data, labels = tf.numpy_function(
        lambda number: images.take(rows(int(number))),
        [number],
        (kind, tf.int32),
    )
    data = tf.ensure_shape(data, (None, *shape))
    if in_examples:
        data = tf.io.parse_example(data, ENCODED)["image/encoded"]
    return data, tf.ensure_shape(labels, (None,))
