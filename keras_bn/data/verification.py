# SPDX-License-Identifier: Apache-2.0
"""Finds images that do not decode, before training meets them.

A JPEG with damaged tables has its header and its end and still stops the
decoder, and with it a run. Decoding at an eighth of the size meets the same
errors for a fraction of the time.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data import augment
from keras_bn.data.arrays import DataError
from keras_bn.data.records import Images, Tree

#: Images read and decoded at a time.
CHUNK = 64


def verified(tree: Tree) -> Tree:
    """The tree without the images that do not decode, which it names.

    Raises:
        DataError: If no training image is left.
    """
    parts, skipped = [], dict(tree.skipped)
    for images in (tree.train, tree.test):
        found = undecodable(images)
        parts.append(_without(images, found))
        skipped |= {images.records[row].name: why for row, why in found.items()}
    train, test = parts
    if not len(train):
        raise DataError("no training image decodes")
    return dataclasses.replace(tree, train=train, test=test, skipped=skipped)


def undecodable(images: Images) -> dict[int, str]:
    """Numbers of the images that do not decode, and why not."""
    found = {}
    looked_at = iter(_decoded_chunks(images))
    for first in range(0, len(images), CHUNK):
        try:
            next(looked_at)  # An error leaves the chunks after it as they are.
        except tf.errors.OpError:
            for row in range(first, min(first + CHUNK, len(images))):
                why = complaint(images.records[row].read())
                if why:
                    found[row] = why
    return found


def complaint(data: bytes) -> str:
    """Why an encoded image does not decode; empty if it does."""
    try:
        augment.decoded(tf.constant(data), side=1)
    except tf.errors.OpError as error:
        return f"it does not decode: {reason(error)}"
    return ""


def reason(error: tf.errors.OpError) -> str:
    """What TensorFlow says, in one line of bounded length."""
    return str(error.message).splitlines()[0][:200]


def _without(images: Images, rows: Collection[int]) -> Images:
    kept = [row for row in range(len(images)) if row not in rows]
    return dataclasses.replace(
        images,
        records=[images.records[row] for row in kept],
        labels=images.labels[kept],
    )


def _decoded_chunks(images: Images) -> Any:
    """A data set of one element a chunk; an error where one does not decode."""

    def read(first: NDArray[np.int64]) -> NDArray[np.object_]:
        records = images.records[int(first) : int(first) + CHUNK]
        return np.array([record.read() for record in records], object)

    def height(data: Any) -> Any:
        return tf.shape(augment.decoded(data, side=1))[0]

    return (
        tf.data.Dataset.range(0, len(images), CHUNK)
        .map(lambda first: tf.numpy_function(read, [first], tf.string))
        .map(
            lambda data: tf.map_fn(
                height,
                tf.ensure_shape(data, (None,)),
                fn_output_signature=tf.int32,
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    )
