# SPDX-License-Identifier: Apache-2.0
"""Lists the images in folders, in zip archives and in TFRecord shards.

No image is extracted, decoded or read here. Images that are too large are
skipped and named; `keras_bn.data.verification` checks the rest.
"""

import dataclasses
import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from keras_bn.data import files, layout
from keras_bn.data.errors import DataError
from keras_bn.data.records import Images, Record
from keras_bn.errors import some

#: Most bytes of one image; a larger one is no photograph but an attack on our
#: memory.
LARGEST_FILE = 2**26


@dataclasses.dataclass(frozen=True)
class Tree:
    """What a folder or an archive of images holds.

    Attributes:
        path: The folder or the archive.
        classes: Names of the classes; their order gives the labels.
        train: Images of the training part.
        test: Images of the test part; empty if there is none.
        skipped: Files that are not usable images: name to reason.

    Raises:
        DataError: If a class has no training images.
    """

    path: Path
    classes: tuple[str, ...]
    train: Images
    test: Images
    skipped: Mapping[str, str]

    def __post_init__(self) -> None:
        taught = set(self.train.labels.tolist())
        untaught = [c for i, c in enumerate(self.classes) if i not in taught]
        if untaught:
            raise DataError(
                f"{self.path}: every class must have training images that are "
                f"whole. Received, without any: {some(untaught)}"
            )


def read_tree(path: str | Path) -> Tree:
    """Lists the images of a folder or a zip archive, none of them read.

    Either holds `train/<class>/<image>` and `val/<class>/<image>` (or
    `validation`, `test`); or, without a test part, `<class>/<image>`; or files
    `<class>_<rest>`, as ImageNet names them. A class' folder may have
    subfolders. Links to folders and to images are followed.

    Raises:
        DataError: If there are no images, a class has none to train on, the
            part or class of an image is unclear, links form a circle or lead
            nowhere, the archive is damaged, or a member of it is unsafe or
            cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_file() and layout.is_tar(path.name):
        raise _packed(path)
    listed = list(_in_folder(path) if path.is_dir() else _in_archive(path))
    images = [record for record in listed if layout.is_image(record.name)]
    beside = layout.in_further_test_parts(path, [r.name for r in images])
    found = [record for record in images if record.name not in beside]
    tars = [record.name for record in listed if layout.is_tar(record.name)]
    if not found and tars:
        raise _packed(path / tars[0])
    if not found:
        raise DataError(
            f"{path} holds no images ({', '.join(layout.SUFFIXES)}) as "
            "train/<class>/<image>, <class>/<image> or <class>_<rest>"
        )
    places = layout.parts_and_classes(path, [record.name for record in found])
    if tars and all(part == "test" for part, _ in places):
        raise _packed(path / tars[0])
    classes = tuple(sorted({name for _, name in places}))
    labels = {name: label for label, name in enumerate(classes)}
    skipped: dict[str, str] = {}
    parts: dict[str, list[tuple[Record, int]]] = {"train": [], "test": []}
    for (part, name), record in zip(places, found, strict=True):
        if max(record.size, record.inflated_size or 0) > LARGEST_FILE:
            skipped[record.name] = f"it has more than {LARGEST_FILE:,} bytes"
        else:
            parts[part].append((record, labels[name]))
    if not parts["test"] and any(part == "test" for part, _ in places):
        raise no_whole_test_images(path)
    train, test = (
        Images(
            [record for record, _ in chosen],
            np.array([label for _, label in chosen], np.int32),
        )
        for chosen in parts.values()
    )
    return Tree(path, classes, train, test, skipped)


def no_whole_test_images(path: Path) -> DataError:
    """The error of a test part whose images are all damaged."""
    return DataError(f"{path} must have a whole image in its test part, too")


def _packed(path: Path) -> DataError:
    return DataError(
        "images must lie in a folder or a zip archive, and tar archives have "
        f"to be unpacked. Received: {path}"
    )


def _in_folder(path: Path) -> Iterator[Record]:
    for where, folders, names in os.walk(
        path, onerror=_refuse, followlinks=True
    ):
        folder = Path(where)
        _check_no_circle(path, folder)
        folders[:] = _shown(folders)
        for file in map(folder.joinpath, _shown(names)):
            if file.is_file():
                name = file.relative_to(path).as_posix()
                yield Record(name, str(file), 0, file.stat().st_size)
            elif file.is_symlink() and not file.exists():
                raise DataError(f"{file} is a link that leads nowhere")


def _shown(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not layout.is_hidden(name))


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}")


def _check_no_circle(path: Path, folder: Path) -> None:
    """Raises `DataError` if links lead from a folder back to its parent."""
    for above in folder.parents:
        if above.is_relative_to(path) and above.samefile(folder):
            raise DataError(
                f"{folder} must not lie in itself. Received: a link that "
                f"leads back to {above}"
            )


def _in_archive(path: Path) -> Iterator[Record]:
    with files.opened(path) as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield _member(path, file.fileno(), member)


def _member(path: Path, descriptor: int, member: zipfile.ZipInfo) -> Record:
    _check_member(path, member)
    # The lengths of name and extra field here may differ from the directory's.
    header = os.pread(descriptor, 30, member.header_offset)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return Record(
        member.filename,
        str(path),
        member.header_offset + 30 + name_length + extra_length,
        member.compress_size,
        member.file_size if member.compress_type else None,
    )


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
        reason = "has a name outside the archive"
    elif stat.S_ISLNK(member.external_attr >> 16):
        reason = "is a link"
    elif member.flag_bits & 1:
        reason = "is encrypted"
    elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        reason = "is neither stored nor deflated"
    elif member.file_size > LARGEST_FILE:
        reason = f"says that it has more than {LARGEST_FILE:,} bytes"
    else:
        return
    raise DataError(f"{path} is refused: member {member.filename!r} {reason}")


def in_shards(paths: Iterable[Path]) -> list[list[Record]]:
    """The records of TFRecord files, file by file.

    A record is its length (8 bytes), a checksum of the length (4), the data,
    and a checksum of the data (4).

    Raises:
        DataError: If a file is cut off or is not of that form.
    """
    return [list(_in_shard(path)) for path in paths]


def _in_shard(path: Path) -> Iterator[Record]:
    with files.opened(path) as file:
        size = path.stat().st_size
        position = 0
        while position < size:
            header = os.pread(file.fileno(), 12, position)
            end = size + 1
            if len(header) == 12:
                length = int.from_bytes(header[:8], "little")
                end = position + 16 + length
            if end > size:
                raise DataError(
                    f"{path} is damaged: it ends within the record at byte "
                    f"{position:,}"
                )
            yield Record(
                f"{path.name}:{position}", str(path), position + 12, length
            )
            position = end
