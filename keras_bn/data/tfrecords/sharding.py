# SPDX-License-Identifier: Apache-2.0
"""Writes images from a folder or an archive as TFRecord shards."""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bn.counting import Counter
from keras_bn.data import files, headers, listing, verification
from keras_bn.data.errors import DataError
from keras_bn.data.records import Images
from keras_bn.errors import reason
from keras_bn.writing import TEMPORARY, replacing, write_json

_LOG = logging.getLogger(__name__)

CLASSES = "classes.txt"
#: File with a conversion's images and options: only the same one is resumed.
ORIGIN = "conversion.json"
#: Its key for the numbers of images, by shard.
COUNTS = "images_in"


def write(
    source: str | Path,
    target: str | Path,
    *,
    shards: int,
    first_label: int = 0,
    seed: int = 0,
) -> dict[str, int]:
    """Converts a folder or an archive of images to shards.

    Images that do not decode are skipped and named. A shard is written under a
    temporary name, read back to verify its checksums, and renamed. Complete
    shards are kept, so that an interrupted conversion can be resumed; temporary
    files of killed conversions are deleted.

    Args:
        source: See `keras_bn.data.listing.read_tree`.
        target: Folder; made if missing.
        shards: Number of training shards; validation has an eighth of them.
        first_label: The first class' label, 0 or 1.
        seed: Seed of the order in which images are dealt to the shards.

    Returns:
        Numbers of images written, by part, and `skipped`.

    Raises:
        ValueError: If there are more shards than images.
        DataError: If there is nothing to convert, a class has a name that
            cannot be listed, `target` holds another conversion, or what was
            written cannot be read back.
    """
    tree = verification.verified(listing.read_tree(source))
    if shards > len(tree.train):
        raise ValueError(
            f"shards must be <= {len(tree.train)}, the number of training "
            f"images. Received: shards={shards}"
        )
    _check_names(tree.classes)
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    validation_shards = min(max(1, shards // 8), len(tree.test))
    dealt = {
        "train": _dealt("train", len(tree.train), shards, seed),
        "validation": _dealt(
            "validation", len(tree.test), validation_shards, seed
        ),
    }
    options = {"shards": shards, "first_label": first_label, "seed": seed}
    sizes = {
        name: len(rows)
        for named in dealt.values()
        for name, rows in named.items()
    }
    _claim(folder, tree, {**options, COUNTS: sizes})
    _delete_leftovers(folder, {*sizes, CLASSES, ORIGIN})
    for name, why in tree.skipped.items():
        _LOG.warning("left out: %s (%s)", name, why)
    for part, images in (("train", tree.train), ("validation", tree.test)):
        written = 0
        with Counter(
            part, len(dealt[part]), unit="shards", patience=0
        ) as counter:
            for done, (name, rows) in enumerate(dealt[part].items(), 1):
                examples = _examples(images, rows, tree.classes, first_label)
                _write_shard(folder / name, examples, len(rows))
                written += len(rows)
                counter.show(done, f", {written:,} images")
    with replacing(folder / CLASSES) as temporary:
        names = "".join(f"{name}\n" for name in tree.classes)
        temporary.write_text(names, "utf-8")
    return {
        "train": len(tree.train),
        "validation": len(tree.test),
        "skipped": len(tree.skipped),
    }


def origin(folder: Path) -> dict[str, Any]:
    """What the shards of a folder were made from; empty without a record.

    Raises:
        DataError: If the record, `conversion.json`, cannot be read.
    """
    path = folder / ORIGIN
    if not path.exists():
        return {}
    with files.opened(path) as file:
        found = json.load(file)
    if not (isinstance(found, dict) and isinstance(found.get(COUNTS), dict)):
        raise DataError(f"{path} is not what a conversion writes")
    return found


def expect(path: Path, count: int, *, found: int) -> None:
    """Raises `DataError` if a shard does not hold `count` images."""
    if found != count:
        raise DataError(
            f"{path} must hold {count} images. Received: {found}. Delete it "
            "and convert again"
        )


def count_records(path: Path) -> int:
    """Number of records in a shard, all checksums read.

    Raises:
        DataError: If a checksum is wrong, or the shard cannot be read.
    """
    try:
        return sum(1 for _ in tf.data.TFRecordDataset(str(path)))
    except tf.errors.PermissionDeniedError:
        raise DataError(f"{path} cannot be read: Permission denied") from None
    except tf.errors.OpError as error:
        raise DataError(
            f"{path} is damaged: {reason(error)}. Delete it and convert again"
        ) from None


def _check_names(classes: Sequence[str]) -> None:
    """Raises `DataError` for a name that `classes.txt` cannot hold."""
    for name in classes:
        if not name.isprintable():
            raise DataError(
                "classes must have printable names in UTF-8. Received: "
                f"{name!a}"
            )


def _dealt(
    part: str, images: int, shards: int, seed: int
) -> dict[str, list[int]]:
    """The indices of each shard's images, by the shard's name."""
    order = np.random.default_rng(seed).permutation(images)
    return {
        f"{part}-{index:05d}-of-{shards:05d}": rows.tolist()
        for index, rows in enumerate(np.array_split(order, shards or 1))
        if len(rows)
    }


def _claim(folder: Path, tree: listing.Tree, options: dict[str, Any]) -> None:
    """Refuses to mix the shards of two conversions in a folder."""
    digest = hashlib.sha256()
    for images in (tree.train, tree.test):
        images.update_digest(digest)
    if (folder / CLASSES).exists() and not (folder / ORIGIN).exists():
        raise DataError(
            f"{folder} holds a {CLASSES} and no {ORIGIN}, so it is not of a "
            "conversion. Name another folder"
        )
    ours = {"images": digest.hexdigest(), **options}
    if (there := origin(folder)) and there != ours:
        raise DataError(
            f"{folder} holds a conversion of other images or with other "
            f"options ({ORIGIN}). Name another folder, or delete this one"
        )
    write_json(folder / ORIGIN, ours)


def _delete_leftovers(folder: Path, names: Collection[str]) -> None:
    """Deletes what killed processes began to write under these names."""
    for path in folder.glob(f"{TEMPORARY}*"):
        _, process, name = path.name.split(".", 2)
        if name in names and process.isdecimal() and not _lives(int(process)):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether there is such a process, other than this one."""
    if process == os.getpid():  # Ids are reused, above all in containers.
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _write_shard(path: Path, examples: Iterator[bytes], count: int) -> None:
    """Writes a shard of `count` images, unless it is there, and checks it."""
    if path.exists():
        expect(path, count, found=count_records(path))
        return
    with replacing(path) as temporary:
        try:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for example in examples:
                    writer.write(example)
        except tf.errors.OpError as error:
            raise DataError(
                f"{path} cannot be written: {reason(error)}"
            ) from None
        expect(temporary, count, found=count_records(temporary))


def _examples(
    images: Images,
    rows: Sequence[int],
    classes: Sequence[str],
    first_label: int,
) -> Iterator[bytes]:
    for row in rows:
        record, label = images.records[row], int(images.labels[row])
        data = record.read()
        size = headers.picture_size(data)
        if size is None:
            raise DataError(f"{record.name} has changed since it was listed")
        features = {
            "image/encoded": data,
            "image/format": b"JPEG" if headers.is_jpeg(data) else b"PNG",
            "image/height": size[0],
            "image/width": size[1],
            "image/filename": record.name.encode("utf-8", "surrogateescape"),
            "image/class/label": label + first_label,
            "image/class/text": classes[label].encode(),
        }
        yield tf.train.Example(
            features=tf.train.Features(
                feature={k: _feature(v) for k, v in features.items()}
            )
        ).SerializeToString()


def _feature(value: bytes | int) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
