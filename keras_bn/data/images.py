# SPDX-License-Identifier: Apache-2.0
"""Batches of images from encoded files, each a function of seed and step."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data import augment
from keras_bn.data.arrays import BatchOrder, share
from keras_bn.data.records import Images

_LOG = logging.getLogger(__name__)

#: Test images that a network is looked at with.
PROBE = 256
#: Field names of the common ImageNet TFRecords.
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Training and test images that stay in their files.

    Attributes:
        name: Name of the data set.
        classes: Number of different labels.
        image_size: Height and width of what a network gets.
        training_images: The training part.
        test_images: The test part.
        padded: Whether images are tiny, so that training moves them about
            instead of cutting parts out.
        first_label: The label, in TFRecords, of the first class.
        shard_sizes: Numbers of images that lie together, in order.
        skipped: Files that are no images: name to reason.
    """

    name: str
    classes: int
    image_size: int
    training_images: Images
    test_images: Images
    padded: bool = False
    first_label: int = 0
    shard_sizes: tuple[int, ...] = ()
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.skipped:
            some = [f"{n} ({why})" for n, why in self.skipped.items()][:5]
            more = len(self.skipped) - len(some)
            _LOG.warning(
                "%s: %d damaged images are left out: %s%s",
                self.name,
                len(self.skipped),
                ", ".join(some),
                f" and {more} more" if more else "",
            )

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

    def probe(
        self, size: int = PROBE
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Inputs and labels to look at a network with.

        Args:
            size: How many test images, evenly spread over all; fewer if there
                are not so many.
        """
        chosen = np.linspace(0, self.test_examples - 1, size).astype(int)
        chosen = np.unique(chosen)
        images = self.test_images
        some = dataclasses.replace(
            self,
            test_images=dataclasses.replace(
                images,
                records=[images.records[row] for row in chosen],
                labels=images.labels[chosen],
            ),
            skipped={},
        )
        ((x, y),) = some.test(batch_size=len(chosen)).as_numpy_iterator()
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
        """
        order = BatchOrder(
            examples=self.train_examples,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            shard_sizes=self.shard_sizes,
        )
        numbers = share(np.arange(batch_size, dtype=np.int32), part)

        def rows(step: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
            own = share(order.rows(int(step), 1)[0], part)
            return (
                *self._read(self.training_images, own),
                int(step) * batch_size + numbers.astype(np.int64),
            )

        def view(data: Any, label: Any, number: Any) -> tuple[Any, Any]:
            data, label = self._parsed(self.training_images, data, label)
            image = augment.training_view(
                data,
                tf.stack([tf.constant(seed, tf.int64), number]),
                size=self.image_size,
                distortion=distortion,
                padded=self.padded,
            )
            return image, label

        steps = tf.data.Dataset.counter(start_step)
        kinds = (tf.string, tf.int32, tf.int64)
        batches = steps.map(
            lambda step: tf.numpy_function(rows, [step], kinds),
            num_parallel_calls=1,
        )
        return _batched(batches, view, len(numbers)).prefetch(2)

    def test(
        self,
        *,
        batch_size: int,
        part: tuple[int, int] = (0, 1),
        crops: int = 1,
    ) -> Any:
        """All test images once; as many batches for every part.

        Args:
            batch_size: Images of a whole batch; the last may have fewer.
            part: As of `train`.
            crops: Views of each image, one of `augment.CROPS`; with more than
                one, a batch is `[N, crops, image_size, image_size, 3]`.
        """
        examples = np.arange(self.test_examples, dtype=np.int32)
        shares = [
            share(examples[first : first + batch_size], part)
            for first in range(0, len(examples), batch_size)
        ]

        def rows(batch: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
            return self._read(self.test_images, shares[int(batch)])

        def view(data: Any, label: Any) -> tuple[Any, Any]:
            data, label = self._parsed(self.test_images, data, label)
            if crops > 1:
                size = self.image_size
                views = augment.test_views(data, size=size, crops=crops)
                return views, label
            image = augment.test_view(
                data, size=self.image_size, padded=self.padded
            )
            return image, label

        batches = tf.data.Dataset.range(len(shares)).map(
            lambda batch: tf.numpy_function(
                rows, [batch], (tf.string, tf.int32)
            ),
            num_parallel_calls=1,
        )
        views = _batched(batches, view, len(shares[0]))
        if not shares[-1].size:
            views = views.concatenate(_empty_batch(views))
        return views.prefetch(2)

    def _read(
        self, images: Images, rows: NDArray[np.int32]
    ) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
        data = np.array([images.records[row].read() for row in rows], object)
        return data, images.labels[rows]

    def _parsed(self, images: Images, data: Any, label: Any) -> tuple[Any, Any]:
        """Encoded image and label, also where both lie in an Example."""
        if not images.parsed:
            return data, label
        example = tf.io.parse_single_example(data, FEATURES)
        label = example["image/class/label"] - self.first_label
        return example["image/encoded"], tf.cast(label, tf.int32)


def _batched(batches: Any, view: Any, size: int) -> Any:
    """Images of all batches are made side by side, then put together again."""

    def separately(*columns: Any) -> Any:
        columns = tuple(tf.ensure_shape(c, (None,)) for c in columns)
        return tf.data.Dataset.from_tensor_slices(columns)

    views = batches.flat_map(separately).map(
        view, num_parallel_calls=tf.data.AUTOTUNE
    )
    return views.batch(size)


def _empty_batch(batches: Any) -> Any:
    """A data set of one batch without examples."""
    empty = [
        tf.zeros([0, *spec.shape[1:]], spec.dtype)
        for spec in batches.element_spec
    ]
    return tf.data.Dataset.from_tensors(tuple(empty))
