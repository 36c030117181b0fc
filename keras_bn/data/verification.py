# SPDX-License-Identifier: Apache-2.0
"""Finds images that do not decode, before training meets them.

A JPEG with damaged tables may have an intact header and end, but still stops
the decoder, and the run with it. Decoding at an eighth of the size finds the
same errors in a fraction of the time.
"""

import dataclasses
import logging
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.counting import Counter
from keras_bn.data import reading
from keras_bn.data.decoding import decoded
from keras_bn.data.headers import damage_of
from keras_bn.data.listing import Tree, no_whole_test_images
from keras_bn.data.records import Images
from keras_bn.errors import reason, some

_LOG = logging.getLogger(__name__)

#: Images read and decoded at a time.
CHUNK = 64


def verified(tree: Tree) -> Tree:
    """The tree without images that do not decode; `skipped` names those.

    Raises:
        DataError: If a class has no training image left, or a test part none.
    """
    train, no_train = whole(tree.train, "train")
    test, no_test = whole(tree.test, "test")
    if len(tree.test) and not len(test):
        raise no_whole_test_images(tree.path)
    skipped = {**tree.skipped, **no_train, **no_test}
    return dataclasses.replace(tree, train=train, test=test, skipped=skipped)


def warn_of_skipped(name: str, skipped: Mapping[str, str]) -> None:
    """Logs in one line which images a data set skips, if any.

    Args:
        name: Name of the data set.
        skipped: Names of the images, each with what is wrong.
    """
    if not skipped:
        return
    _LOG.warning(
        "%s: %d damaged images are left out: %s",
        name,
        len(skipped),
        some([f"{image} ({why})" for image, why in skipped.items()]),
    )


def whole(images: Images, part: str) -> tuple[Images, dict[str, str]]:
    """The images that decode; for the others, name to reason.

    Args:
        images: The images that were listed.
        part: Name of their part, for the progress line.
    """
    found = {}
    chunks = iter(_decoded_chunks(images))
    with Counter(f"checking {part}", len(images), unit="images") as counter:
        for first in range(0, len(images), CHUNK):
            rows = range(first, min(first + CHUNK, len(images)))
            try:  # After an error, the next chunk can still be read.
                decodes = np.asarray(next(chunks))
            except tf.errors.OpError:
                decodes = np.zeros(len(rows), bool)
            for row, is_whole in zip(rows, decodes, strict=True):
                why = "" if is_whole else _complaint_of(images, row)
                if why:
                    found[row] = why
            counter.show(rows.stop)
    kept = np.setdiff1d(np.arange(len(images)), list(found))
    return images.only(kept.astype(np.int64)), {
        images.records[row].name: why for row, why in found.items()
    }


def _complaint_of(images: Images, row: int) -> str:
    try:
        data = images.records[row].read()
    except (OSError, zlib.error) as error:
        return f"it cannot be read: {error}"
    return complaint(
        reading.encoded(images, row) if images.in_examples else data
    )


def complaint(image: Any) -> str:
    """Why an encoded image does not decode; empty if it does."""
    image = tf.convert_to_tensor(image)
    why = damage_of(image.numpy())
    if why:
        return why
    try:
        decoded(image, side=1)
    except tf.errors.OpError as error:
        return f"it does not decode: {reason(error)}"
    return ""


def _decoded_chunks(images: Images) -> Any:
    """A data set of flags, one element per chunk: which images look intact.

    A chunk raises an error if one of these images does not decode.
    """

    def look_whole(data: Any) -> NDArray[np.bool_]:
        return np.array([not damage_of(image) for image in data])

    def decode(data: Any) -> Any:
        """Only what looks intact: the rest may be too large for memory."""
        looks = tf.numpy_function(look_whole, [data], tf.bool)
        looks = tf.ensure_shape(looks, [None])
        heights = tf.map_fn(
            lambda image: tf.shape(decoded(image, side=1))[0],
            tf.boolean_mask(data, looks),
            fn_output_signature=tf.int32,
        )
        with tf.control_dependencies([heights]):
            return tf.identity(looks)

    return reading.chunks(images, CHUNK).map(
        decode, num_parallel_calls=tf.data.AUTOTUNE
    )
