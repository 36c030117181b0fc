# SPDX-License-Identifier: Apache-2.0
"""Batches of images from encoded files, each a function of seed and step."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn import failures
from keras_bn.arguments import one_of
from keras_bn.data import augment, reading, resident, views
from keras_bn.data.arrays import identity_of
from keras_bn.data.batch_order import BatchOrder, share
from keras_bn.data.records import Images

#: Number of test images for measuring a network.
PROBE = 256
#: Training batches made in parallel; tf.data's own choice may stay at one.
_AT_A_TIME = os.cpu_count() or 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Training and test images that stay in their files.

    Small images of one size are kept decoded in memory after their first use
    (`keras_bn.data.resident`).

    Attributes:
        name: Name of the data set.
        classes: Number of different labels.
        image_size: Height and width of the network's input, in pixels.
        training_images: The training part.
        test_images: The test part.
        padded: Whether images are tiny, so that training moves them instead
            of cutting parts out.
        shard_sizes: Number of images in each shard, in order.
        skipped: Files that are no images: name to reason.
    """

    name: str
    classes: int
    image_size: int
    training_images: Images
    test_images: Images
    padded: bool = False
    shard_sizes: tuple[int, ...] = ()
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return (self.image_size, self.image_size, 3)

    @property
    def train_examples(self) -> int:
        """Number of training images."""
        return len(self.training_images)

    @property
    def test_examples(self) -> int:
        """Number of test images."""
        return len(self.test_images)

    def identity(self) -> dict[str, Any]:
        """What identifies these data, from the images' names and sizes."""
        digest = hashlib.sha256()
        for images in (self.training_images, self.test_images):
            images.update_digest(digest)
            digest.update(images.labels.tobytes())
        return identity_of(self, digest)

    def probe(
        self, size: int = PROBE
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Inputs and labels for measuring a network.

        Args:
            size: How many test images, evenly spread over all; fewer if there
                are not so many.

        Raises:
            keras_bn.failures.InputError: If they cannot be read.
        """
        chosen = np.linspace(0, self.test_examples - 1, size).astype(int)
        chosen = np.unique(chosen)
        some = dataclasses.replace(
            self, test_images=self.test_images.only(chosen)
        )
        batches = some.test(batch_size=len(chosen))
        with failures.reading():
            ((x, y),) = batches.as_numpy_iterator()
        return x, y

    def train(
        self,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        part: tuple[int, int] = (0, 1),
        distortion: str = "none",
        shuffle: str = "all",
    ) -> Any:
        """Batches without end, as a `tf.data.Dataset`.

        Args:
            batch_size: Images of a whole batch.
            seed: Seed of their order and of all that is done to them.
            start_step: The step that the first batch is for.
            part: `(i, n)`: the i-th of n nearly equal shares of each batch.
            distortion: Of the colours, one of `augment.DISTORTIONS`.
            shuffle: `"all"` mixes all images anew in each epoch; `"within"`
                takes shards in random order and mixes within each;
                `"shards"` leaves the order within shards as it is.

        Returns:
            Images `[N, image_size, image_size, 3]`, float32 in [-1, 1], and
            labels `[N]`, int32.

        Raises:
            ValueError: If `distortion` or `shuffle` is unknown, or a batch is
                larger than the data set.
            keras_bn.failures.InputError: If images that are kept in memory
                cannot be read.
        """
        one_of("distortion", distortion, augment.DISTORTIONS)
        order = BatchOrder(
            examples=self.train_examples,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            shard_sizes=self.shard_sizes,
        )
        images = self._training
        numbers = share(np.arange(batch_size, dtype=np.int32), part)

        def rows(step: int) -> NDArray[np.int32]:
            return share(order.rows(step, 1)[0], part)

        def views_of(step: Any, taken: Any, labels: Any) -> tuple[Any, Any]:
            draws = tf.random.stateless_uniform(
                (batch_size, augment.DRAWS),
                tf.stack([tf.constant(seed, tf.int64), step]),
            )
            found = augment.training_views(
                taken,
                tf.gather(draws, numbers),
                size=self.image_size,
                distortion=distortion,
                padded=self.padded,
            )
            return found, labels

        return (
            tf.data.Dataset.counter(start_step)
            .map(lambda step: (step, *reading.taken(images, rows, step)))
            .map(views_of, num_parallel_calls=_AT_A_TIME)
            .prefetch(2)
        )

    def test(
        self,
        *,
        batch_size: int,
        part: tuple[int, int] = (0, 1),
        crops: int = 1,
    ) -> Any:
        """All test images once; every part has the same number of batches.

        Args:
            batch_size: Images of a whole batch; the last may have fewer.
            part: As of `train`.
            crops: Views of each image, one of `views.CROPS`; with more than
                one, a batch is `[N, crops, image_size, image_size, 3]`.

        Raises:
            ValueError: For another number of crops.
            keras_bn.failures.InputError: As `train`.
        """
        views.require_crops(crops)
        examples = np.arange(self.test_examples, dtype=np.int32)
        shares = [
            share(examples[first : first + batch_size], part)
            for first in range(0, len(examples), batch_size)
        ]

        images = self._test

        def view(image: Any) -> Any:
            if crops > 1:
                return views.test_views(
                    image, size=self.image_size, crops=crops
                )
            return views.test_view(
                image, size=self.image_size, padded=self.padded
            )

        shape = (*([crops] if crops > 1 else []), *self.input_shape)

        def views_of(taken: Any, labels: Any) -> tuple[Any, Any]:
            found = tf.map_fn(
                view, taken, fn_output_signature=tf.TensorSpec(shape)
            )
            return found, labels

        return (
            tf.data.Dataset.range(len(shares))
            .map(lambda batch: reading.taken(images, shares.__getitem__, batch))
            .map(views_of, num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(2)
        )

    @functools.cached_property
    def _training(self) -> Images | resident.Pixels:
        with failures.reading():
            return resident.kept(self.training_images)

    @functools.cached_property
    def _test(self) -> Images | resident.Pixels:
        with failures.reading():
            return resident.kept(self.test_images)
