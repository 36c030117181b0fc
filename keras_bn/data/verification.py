# SPDX-License-Identifier: Apache-2.0
"""Finds images that do not decode, before training meets them.

A JPEG with damaged tables has its header and its end and still stops the
decoder, and with it a run. Decoding at an eighth of the size meets the same
errors for a fraction of the time.
"""

import contextlib
import dataclasses
import logging
import math
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data import reading
from keras_bn.data.decoding import decoded
from keras_bn.data.records import (
    Images,
    Tree,
    damage_of,
    no_whole_test_images,
)
from keras_bn.errors import reason

_LOG = logging.getLogger(__name__)

#: Images read and decoded at a time.
CHUNK = 64
#: Seconds before a line counts, and between its changes.
PATIENCE, INTERVAL = 3.0, 1.0


class Counter:
    """A line on standard error that counts, where that takes long.

    The line ends with the `with` block it is used in.

    Args:
        what: What it begins with.
        total: How many there are to count.
        unit: Of what.
        patience: Seconds before it is first shown. 0: always, with every
            change. Infinite: never.
    """

    def __init__(
        self, what: str, total: int, *, unit: str, patience: float
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._interval = INTERVAL if patience else 0.0
        self._next = time.monotonic() + patience
        self._shown = False

    def show(self, done: int, more: str = "") -> None:
        """Counts up to `done`; `more` is said after it."""
        last = self._shown and done == self._total
        if time.monotonic() < self._next and not last:
            return
        self._say(
            f"\r{self._what}: {done:,}/{self._total:,} {self._unit}{more}"
        )
        self._shown = True
        self._next = time.monotonic() + self._interval

    def __enter__(self) -> "Counter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._shown:
            self._say("\n")

    @staticmethod
    def _say(text: str) -> None:
        if sys.stderr is None:  # It was closed before the process began.
            return
        with contextlib.suppress(OSError):  # of a terminal that is closed
            print(text, end="", file=sys.stderr, flush=True)


def verified(tree: Tree, *, progress: bool = True) -> Tree:
    """The tree without the images that do not decode, which it names.

    Args:
        tree: What was listed.
        progress: Whether a line counts if this takes more than `PATIENCE`.

    Raises:
        DataError: If a class has no training image left, or a test part none.
    """
    train, no_train = whole(tree.train, "train", progress=progress)
    test, no_test = whole(tree.test, "test", progress=progress)
    if len(tree.test) and not len(test):
        raise no_whole_test_images(tree.path)
    skipped = {**tree.skipped, **no_train, **no_test}
    return dataclasses.replace(tree, train=train, test=test, skipped=skipped)


def warn_of_skipped(name: str, skipped: Mapping[str, str]) -> None:
    """Logs in one line which images a data set does without, if any.

    Args:
        name: Of the data set.
        skipped: Names of the images, each with what is wrong.
    """
    if not skipped:
        return
    some = [f"{image} ({why})" for image, why in skipped.items()][:5]
    more = len(skipped) - len(some)
    _LOG.warning(
        "%s: %d damaged images are left out: %s%s",
        name,
        len(skipped),
        ", ".join(some),
        f" and {more} more" if more else "",
    )


def whole(
    images: Images, part: str, *, progress: bool = True
) -> tuple[Images, dict[str, str]]:
    """The images that decode; of the others, name to reason.

    Args:
        images: What was listed.
        part: What to call it in the line that counts.
        progress: Whether there is one.
    """
    patience = PATIENCE if progress else math.inf
    with Counter(
        f"checking {part}", len(images), unit="images", patience=patience
    ) as counter:
        found = undecodable(images, seen=counter.show)
    rows = np.setdiff1d(np.arange(len(images)), list(found))
    return images.only(rows.astype(np.int64)), {
        images.records[row].name: why for row, why in found.items()
    }


def undecodable(
    images: Images, *, seen: Callable[[int], None] = lambda _: None
) -> dict[int, str]:
    """Numbers of the images that do not decode, and why not.

    Args:
        images: What was listed.
        seen: Told how many were looked at, again and again.
    """
    found = {}
    chunks = iter(_decoded_chunks(images))
    for first in range(0, len(images), CHUNK):
        rows = range(first, min(first + CHUNK, len(images)))
        try:  # An error leaves the chunks after it as they are.
            decodes = np.asarray(next(chunks))
        except tf.errors.OpError:
            decodes = np.zeros(len(rows), bool)
        for row, is_whole in zip(rows, decodes, strict=True):
            why = "" if is_whole else _complaint_of(images, row)
            if why:
                found[row] = why
        seen(rows.stop)
    return found


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
    """A data set of which images are whole, of one element a chunk.

    An error where one does not decode.
    """

    def look_whole(data: Any) -> NDArray[np.bool_]:
        return np.array([not damage_of(image) for image in data])

    def decode(data: Any) -> Any:
        """What looks whole, as the rest may be too large for memory."""
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
