# SPDX-License-Identifier: Apache-2.0
"""Small images kept decoded, so that each is decoded once in a run."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data import reading
from keras_bn.data.decoding import decoded
from keras_bn.data.records import Images

#: Most bytes of pixels of one part of a data set: 87,381 images of 64x64.
LARGEST = 2**30
#: Images decoded at a time.
CHUNK = 256


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

    Otherwise the images themselves, to be decoded at each use. Photographs
    mostly differ in size, which shows after the first few.
    """
    shape = tuple(decoded(reading.encoded(images, 0)).shape)
    if len(images) * math.prod(shape) > LARGEST:
        return images
    pixels = np.empty((len(images), *shape), np.uint8)

    def decode(image: Any) -> Any:
        return tf.ensure_shape(decoded(image), shape)

    chunks = reading.chunks(images, CHUNK).map(
        lambda data: tf.map_fn(
            decode, data, fn_output_signature=tf.TensorSpec(shape, tf.uint8)
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    try:
        first = 0
        for chunk in chunks.as_numpy_iterator():
            pixels[first : first + len(chunk)] = chunk
            first += len(chunk)
    except tf.errors.InvalidArgumentError:  # Another size.
        return images
    return Pixels(pixels, images.labels)
