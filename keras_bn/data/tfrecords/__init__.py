# SPDX-License-Identifier: Apache-2.0
"""Images in TFRecord shards, as ImageNet is commonly kept."""

import collections
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.counting import Counter
from keras_bn.data import files, listing, verification
from keras_bn.data.errors import DataError
from keras_bn.data.images import ImageDataset
from keras_bn.data.reading import ENCODED
from keras_bn.data.records import Images, Record
from keras_bn.data.tfrecords import sharding
from keras_bn.data.tfrecords.sharding import CLASSES, COUNTS
from keras_bn.errors import reason, some

_LOG = logging.getLogger(__name__)
#: Field names of the common ImageNet TFRecords.
FEATURES = {**ENCODED, "image/class/label": tf.io.FixedLenFeature([], tf.int64)}
_NAME = re.compile(r"(train|validation|val|test)-(\d{5})-of-(\d{5})")


def load(data_dir: str | Path | None, *, image_size: int) -> ImageDataset:
    """Lists the records of all shards in a folder.

    Args:
        data_dir: The folder. An optional `classes.txt` in it names the
            classes, one per line; without it, the labels determine their
            number.
        image_size: Height and width of the network's input, in pixels.

    Raises:
        DataError: If shards are missing, damaged or hold something else.
    """
    if data_dir is None or not Path(data_dir).is_dir():
        raise DataError(
            "dataset=tfrecords needs --data_dir: a folder of shards named "
            f"train-00000-of-00128. Received: {data_dir}"
        )
    folder = Path(data_dir)
    parts = {part: _shards(folder, part) for part in ("train", "test")}
    if not parts["train"]:
        raise DataError(f"{folder} holds no shards named train-00000-of-...")
    origin = sharding.origin(folder)
    listed = {part: _records(p, origin) for part, p in parts.items()}
    labels = {part: _labels(part, p) for part, p in parts.items()}
    if not listed["train"]:
        raise DataError(f"{folder}: the training shards hold no records")
    classes, first = _classes(folder, np.concatenate([*labels.values()]))
    found: dict[str, Images] = {}
    skipped: dict[str, str] = {}
    for part in parts:
        images = Images(
            listed[part],
            (labels[part] - first).astype(np.int32),
            in_examples=True,
        )
        if not origin:  # No conversion has verified them.
            images, damaged = verification.whole(images, part)
            skipped |= damaged
        found[part] = images
    train, test = found.values()
    if not len(train):
        raise DataError(f"{folder}: no training image decodes")
    if listed["test"] and not len(test):
        raise listing.no_whole_test_images(folder)
    untaught = sorted({*test.labels.tolist()} - {*train.labels.tolist()})
    if untaught:
        raise DataError(
            f"{folder}: labels of test images must be those of training images "
            f"that are whole. Received, without any: {untaught[0] + first}"
        )
    if not len(test):
        _LOG.warning(
            "%s has no validation shards: accuracy is measured on the "
            "training images",
            folder,
        )
        test = train
    verification.warn_of_skipped("tfrecords", skipped)
    sizes = collections.Counter(record.file for record in train.records)
    return ImageDataset(
        name="tfrecords",
        classes=classes,
        image_size=image_size,
        training_images=train,
        test_images=test,
        shard_sizes=tuple(sizes.values()),
        skipped=skipped,
    )


def _shards(folder: Path, part: str) -> list[Path]:
    """The shards of a part, in order; `DataError` if one is missing."""
    found = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match and (match[1] == "train") == (part == "train"):
            found[match[1], int(match[2]), int(match[3])] = path
    if not found:
        return []
    name, _, total = next(iter(found))
    wanted = [(name, index, total) for index in range(total)]
    missing = [_named(key) for key in wanted if key not in found]
    others = [_named(key) for key in found if key not in wanted]
    if missing or others:
        raise DataError(
            f"{folder} must hold {total} shards {name}-?????-of-{total:05d}. "
            f"Received: {len(found)}"
            + (f", without {some(missing)}" if missing else "")
            + (f", with {some(others)}" if others else "")
        )
    return [found[key] for key in wanted]


def _named(key: tuple[str, int, int]) -> str:
    part, index, total = key
    return f"{part}-{index:05d}-of-{total:05d}"


def _records(paths: Sequence[Path], origin: Mapping[str, Any]) -> list[Record]:
    """The records of shards; checks that a conversion wrote as many."""
    shards = listing.in_shards(paths)
    for path, shard in zip(paths, shards, strict=True):
        count = origin.get(COUNTS, {}).get(path.name, len(shard))
        sharding.expect(path, count, found=len(shard))
    return [record for shard in shards for record in shard]


def _labels(part: str, paths: Sequence[Path]) -> NDArray[np.int64]:
    """The labels in shards as written, `[N]`, all checksums read."""
    found = [np.empty(0, np.int64)]
    with Counter(f"reading {part}", len(paths), unit="shards") as counter:
        for done, path in enumerate(paths, 1):
            found += _labels_in(path)
            counter.show(done)
    return np.concatenate(found)


def _labels_in(path: Path) -> list[NDArray[np.int64]]:
    """The labels in one shard, some at a time.

    Raises:
        DataError: If it is damaged or holds something else.
    """
    examples = tf.data.TFRecordDataset(str(path))
    labels_of = examples.batch(256).map(
        lambda batch: tf.io.parse_example(batch, FEATURES)["image/class/label"]
    )
    try:
        return list(labels_of.as_numpy_iterator())
    except tf.errors.OpError as error:
        raise DataError(
            f"{path} is damaged, or a record does not hold image/encoded and "
            f"image/class/label: {reason(error)}"
        ) from None


def _classes(folder: Path, labels: NDArray[np.int64]) -> tuple[int, int]:
    """The number of classes, and the label of the first.

    Without `classes.txt`, the smallest label is that of the first class, and
    there must be no more classes than images.
    """
    smallest, largest = int(labels.min()), int(labels.max())
    path = folder / CLASSES
    if path.exists():
        classes = len(files.text(path).splitlines())
        first = 1 if largest == classes else 0
    else:
        classes, first = largest - smallest + 1, smallest
    if first not in (0, 1) or smallest < first or largest >= first + classes:
        raise DataError(
            f"{folder}: labels must count from 0 or from 1, one for each of "
            f"{classes} classes. Received: labels {smallest} to {largest}"
        )
    if classes > len(labels) and not path.exists():
        raise DataError(
            f"{folder} must hold {CLASSES}, a name a line, where there are "
            f"fewer images than classes. Received: {len(labels)} images, "
            f"labels {smallest} to {largest}"
        )
    return classes, first
