# SPDX-License-Identifier: Apache-2.0
"""Finds images that do not decode, before training meets them.

A JPEG with damaged tables has its header and its end and still stops the
decoder, and with it a run. Decoding at an eighth of the size meets the same
errors for a fraction of the time.
"""

import dataclasses
import re
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data import resident
from keras_bn.data.decoding import decoded
from keras_bn.data.records import Images, Tree

#: Images read and decoded at a time.
CHUNK = 64
#: What a message says of the program rather than of the data.
_OF_TENSORFLOW = re.compile(
    r"\{\{function_node .*?\}\}"
    r"|Error in user-defined function .*? iterator: \S+"
    r"|(\[\[\{\{node|\[Op:).*",
    re.DOTALL,
)


def verified(tree: Tree) -> Tree:
    """The tree without the images that do not decode, which it names.

    Raises:
        DataError: If a class has no training image left.
    """
    train, no_train = whole(tree.train)
    test, no_test = whole(tree.test)
    skipped = {**tree.skipped, **no_train, **no_test}
    return dataclasses.replace(tree, train=train, test=test, skipped=skipped)


def whole(images: Images) -> tuple[Images, dict[str, str]]:
    """The images that decode; of the others, name to reason."""
    found = undecodable(images)
    rows = np.setdiff1d(np.arange(len(images)), list(found))
    return images.only(rows.astype(np.int64)), {
        images.records[row].name: why for row, why in found.items()
    }


def undecodable(images: Images) -> dict[int, str]:
    """Numbers of the images that do not decode, and why not."""
    found = {}
    looked_at = iter(_decoded_chunks(images))
    for first in range(0, len(images), CHUNK):
        try:
            next(looked_at)  # An error leaves the chunks after it as they are.
        except tf.errors.OpError:
            for row in range(first, min(first + CHUNK, len(images))):
                why = complaint(_encoded(images, row))
                if why:
                    found[row] = why
    return found


def complaint(image: Any) -> str:
    """Why an encoded image does not decode; empty if it does."""
    try:
        decoded(tf.convert_to_tensor(image), side=1)
    except tf.errors.OpError as error:
        return f"it does not decode: {reason(error)}"
    return ""


def reason(error: tf.errors.OpError) -> str:
    """What TensorFlow says of the data, in one line of bounded length."""
    return " ".join(_OF_TENSORFLOW.sub("", str(error.message)).split())[:200]


def _encoded(images: Images, row: int) -> Any:
    """The image of a row, out of its Example if it is in one."""
    return resident.taken(images, lambda row: np.array([row]), row)[0][0]


def _decoded_chunks(images: Images) -> Any:
    """A data set of one element a chunk; an error where one does not decode."""

    def rows(first: int) -> NDArray[np.int64]:
        return np.arange(first, min(first + CHUNK, len(images)))

    def height(image: Any) -> Any:
        return tf.shape(decoded(image, side=1))[0]

    return (
        tf.data.Dataset.range(0, len(images), CHUNK)
        .map(lambda first: resident.taken(images, rows, first)[0])
        .map(
            lambda data: tf.map_fn(height, data, fn_output_signature=tf.int32),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    )
