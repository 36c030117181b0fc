# SPDX-License-Identifier: Apache-2.0
"""Images in TFRecord shards, as ImageNet is commonly kept.

    python -m keras_bn.data.tfrecords SRC DST --shards=128

SRC is a folder or a zip archive of images (docs/data.md). DST gets
`train-00000-of-00128` ..., `validation-...` and `classes.txt`. Shards that are
there and whole are left as they are, so that an interrupted conversion goes
on. The field names are those of the common ImageNet shards; labels count from
0, unless `--first_label=1`.
"""

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data import augment, records
from keras_bn.data.arrays import DataError
from keras_bn.data.images import FEATURES, ImageDataset

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"(train|validation|val|test)-(\d{5})-of-(\d{5})")
CLASSES = "classes.txt"


def load(data_dir: str | Path | None, *, image_size: int) -> ImageDataset:
    """Lists the records of all shards in a folder.

    Args:
        data_dir: The folder. `classes.txt`, if it is there, holds the names
            of the classes, a line each; otherwise the labels tell how many
            there are.
        image_size: Height and width of what a network gets.

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
    listed = {part: records.in_shards(p) for part, p in parts.items()}
    train, test = (
        records.Images(
            flat := [r for shard in listed[part] for r in shard],
            np.full(len(flat), -1, np.int32),
            parsed=True,
        )
        for part in ("train", "test")
    )
    if not len(test):
        _LOG.warning(
            "%s has no validation shards: accuracy is measured on the "
            "training images",
            folder,
        )
        test = train
    first, last = _labels(parts["train"])
    names = folder / CLASSES
    return ImageDataset(
        name="tfrecords",
        classes=(
            len(names.read_text("utf-8").splitlines())
            if names.exists()
            else last - first + 1
        ),
        image_size=image_size,
        training_images=train,
        test_images=test,
        first_label=first,
        shard_sizes=tuple(len(shard) for shard in listed["train"]),
    )


def write(
    source: str | Path,
    target: str | Path,
    *,
    shards: int,
    first_label: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, int]:
    """Converts a folder or an archive of images to shards.

    Every image is decoded once; one that cannot be is left out and named. A
    shard is written to a temporary name, read back, and renamed.

    Args:
        source: See `keras_bn.data.records.read_tree`.
        target: Folder; made if missing.
        shards: Number of training shards; validation has an eighth of them.
        first_label: The first class' label, 0 or 1.
        seed: Seed of the order in which images are dealt to the shards.
        progress: Whether to show a line that counts.

    Returns:
        Numbers of images written, by part, and `skipped`.

    Raises:
        DataError: If there is nothing to convert, or what was written cannot
            be read back.
    """
    tree = records.read_tree(source)
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    skipped = dict(tree.skipped)
    counts = {}
    test_shards = max(1, shards // 8)
    for part, images, number in (
        ("train", tree.train, shards),
        ("validation", tree.test, test_shards),
    ):
        order = np.random.default_rng(seed).permutation(len(images))
        count = 0
        for index, rows in enumerate(np.array_split(order, number)):
            path = folder / f"{part}-{index:05d}-of-{number:05d}"
            if len(images):
                count += _write_shard(
                    path, images, rows, tree.classes, first_label, skipped
                )
            if progress:
                print(
                    f"\r{part}: {index + 1}/{number} shards, {count:,} images",
                    end="" if index + 1 < number else "\n",
                    file=sys.stderr,
                    flush=True,
                )
        counts[part] = count
    _replace(folder / CLASSES, "".join(f"{c}\n" for c in tree.classes).encode())
    for name, reason in skipped.items():
        _LOG.warning("left out: %s (%s)", name, reason)
    return {**counts, "skipped": len(skipped)}


def _write_shard(
    path: Path,
    images: records.Images,
    rows: NDArray[Any],
    classes: Sequence[str],
    first_label: int,
    skipped: dict[str, str],
) -> int:
    """Number of images in the shard, which may have been there before."""
    if path.exists():
        return _check_shard(path)
    temporary = path.with_name(path.name + ".tmp")
    count = 0
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for row in rows:
            record, label = images.records[row], int(images.labels[row])
            data = record.read()
            try:
                height, width, _ = augment.decoded(tf.constant(data)).shape
            except tf.errors.OpError as error:
                skipped[record.name] = f"it does not decode: {_reason(error)}"
                continue
            example = _example(
                data,
                label + first_label,
                classes[label],
                record.name,
                (height, width),
            )
            writer.write(example.SerializeToString())
            count += 1
    if _check_shard(temporary) != count:
        raise DataError(f"{temporary} does not hold what was written to it")
    temporary.replace(path)
    return count


def _example(
    data: bytes, label: int, name: str, file: str, size: tuple[int, int]
) -> tf.train.Example:
    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_int(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    kind = b"JPEG" if data.startswith(b"\xff\xd8") else b"PNG"
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image/encoded": of_bytes(data),
                "image/format": of_bytes(kind),
                "image/height": of_int(size[0]),
                "image/width": of_int(size[1]),
                "image/filename": of_bytes(file.encode()),
                "image/class/label": of_int(label),
                "image/class/text": of_bytes(name.encode()),
            }
        )
    )


def _check_shard(path: Path) -> int:
    """Number of records, all checksums read; `DataError` if one is wrong."""
    try:
        return sum(1 for _ in tf.data.TFRecordDataset(str(path)))
    except tf.errors.OpError as error:
        raise DataError(
            f"{path} is damaged: {_reason(error)}. Delete it and convert again"
        ) from None


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


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
    missing = [key for key in wanted if key not in found]
    if missing or len(found) != total:
        raise DataError(
            f"{folder} must hold {total} shards {name}-?????-of-{total:05d}. "
            f"Received: {len(found)}"
        )
    return [found[key] for key in wanted]


def _labels(paths: Sequence[Path]) -> tuple[int, int]:
    """The smallest and the largest label in shards, all checksums read."""
    examples = tf.data.TFRecordDataset(
        [str(path) for path in paths], num_parallel_reads=tf.data.AUTOTUNE
    )
    labels = examples.batch(256).map(
        lambda batch: tf.io.parse_example(batch, FEATURES)["image/class/label"]
    )
    try:
        chunks = [chunk for chunk in labels.as_numpy_iterator()]
    except tf.errors.OpError as error:
        raise DataError(
            f"{paths[0].parent}: a shard is damaged, or a record does not hold "
            f"image/encoded and image/class/label: {_reason(error)}"
        ) from None
    every = np.concatenate(chunks)
    return int(every.min()), int(every.max())


def _reason(error: tf.errors.OpError) -> str:
    return str(error.message).splitlines()[0][:200]


def main(argv: list[str]) -> int:
    """Converts; returns the exit code."""
    source, target = argv[1:]
    try:
        counts = write(
            source,
            target,
            shards=FLAGS.shards,
            first_label=FLAGS.first_label,
            seed=FLAGS.seed,
        )
    except (DataError, OSError) as error:
        print(f"tfrecords: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{name}: {n:,}" for name, n in counts.items()))
    return 0


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; a wrong one ends with one line and exit code 2."""
    try:
        rest = list(FLAGS(argv))
        if len(rest) != 3:
            raise flags.Error(f"SRC and DST are needed. Received: {rest[1:]}")
    except flags.Error as error:
        print(f"tfrecords: {error}", file=sys.stderr)
        sys.exit(2)
    return rest


if __name__ == "__main__":
    from absl import app, flags

    FLAGS = flags.FLAGS
    flags.DEFINE_integer("shards", 16, "training shards", lower_bound=1)
    flags.DEFINE_integer("first_label", 0, "label of the first class", 0, 1)
    flags.DEFINE_integer("seed", 0, "of the order of the images")
    app.run(main, flags_parser=_parse)
