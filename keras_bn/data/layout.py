# SPDX-License-Identifier: Apache-2.0
"""Finds an image's part of the data set, and its class, from its path."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from keras_bn.data.errors import DataError

_LOG = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png")
#: Of archives that have to be unpacked.
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: Names of the folder of the training part and of those of the test part.
TRAIN, TEST = "train", ("val", "validation", "test")


@dataclasses.dataclass(frozen=True)
class ImagePath:
    """The path of an image, split at the folder of its part.

    Attributes:
        name: The whole path, with `/`.
        above: The folders above the part's; all folders if there is no part.
        part: The part's folder; empty if there is none.
        below: The folders below the part's.
    """

    name: str
    above: tuple[str, ...]
    part: str
    below: tuple[str, ...]

    @classmethod
    def of(cls, name: str) -> "ImagePath":
        """Takes the first folder that has the name of a part as the part."""
        folders = PurePosixPath(name).parts[:-1]
        for depth, folder in enumerate(folders):
            if folder in (TRAIN, *TEST):
                return cls(name, folders[:depth], folder, folders[depth + 1 :])
        return cls(name, folders, "", ())


def is_hidden(name: str) -> bool:
    """Whether a file or folder does not belong to the data."""
    return name.startswith((".", "__MACOSX"))


def is_image(name: str) -> bool:
    """Whether a path is that of an image, and not hidden."""
    path = PurePosixPath(name)
    hidden = any(map(is_hidden, path.parts))
    return path.suffix.lower() in SUFFIXES and not hidden


def is_tar(name: str) -> bool:
    """Whether a path has the suffix of a tar archive."""
    return name.lower().endswith(TARS)


def in_further_test_parts(source: Path, names: Sequence[str]) -> set[str]:
    """The paths of images in surplus test parts, which a warning names.

    If both `val` and `test` exist, `val` is the test part, as for ImageNet,
    whose images in `test` have no labels.

    Args:
        source: What to name in messages.
        names: The images' paths in it, with `/`.
    """
    by_part: dict[str, set[str]] = {part: set() for part in TEST}
    for name in names:
        part = ImagePath.of(name).part
        if part in by_part:
            by_part[part].add(name)
    first, *further = [part for part in TEST if by_part[part]] or [""]
    for part in further:
        _LOG.warning(
            "%s: %s/ is the test part, so %s/ is left out (%d images)",
            source,
            first,
            part,
            len(by_part[part]),
        )
    return set().union(*(by_part[part] for part in further))


def parts_and_classes(
    source: Path, names: Sequence[str]
) -> list[tuple[str, str]]:
    """The part, `"train"` or `"test"`, and the class of each image.

    Args:
        source: What to name in messages.
        names: The images' paths in it, with `/`.

    Raises:
        DataError: If a folder with the name of a part cannot be one, or the
            class of an image is unclear.
    """
    paths = [ImagePath.of(name) for name in names]
    _check_parts(source, paths)
    _check_test_part(source, paths)
    return [
        ("test" if path.part in TEST else TRAIN, _class(source, path))
        for path in paths
    ]


def _check_parts(source: Path, paths: Sequence[ImagePath]) -> None:
    """Refuses folders that may be a part or a class of the same name."""
    inside = [path for path in paths if path.part]
    outside = [path for path in paths if not path.part]
    # Without folders of classes, it must be clear where the parts are.
    bare = [path for path in inside if not path.below]
    elsewhere = [p for p in inside if bare and p.above != bare[0].above]
    if inside and (outside or elsewhere):
        first, second = (bare or inside)[0], (outside or elsewhere)[0]
        raise DataError(
            f"{source}: folders named {', '.join((TRAIN, *TEST))} must be "
            "parts that hold all images, as train/<class>/<image>; a class of "
            "that name must lie in one of them. Received: "
            f"{first.name}, {second.name}"
        )


def _check_test_part(source: Path, paths: Sequence[ImagePath]) -> None:
    """Refuses to guess classes from file names if training has folders."""
    train = [path for path in paths if path.part == TRAIN]
    if not train or not all(path.below for path in train):
        return
    classes = {path.below[0] for path in train}
    for path in paths:
        bare = path.part in TEST and not path.below
        if bare and PurePosixPath(path.name).name.split("_")[0] not in classes:
            folder = "/".join((*path.above, path.part))
            raise DataError(
                f"{source}: {folder}/ must have a folder per class, as "
                f"{TRAIN}/ has: {folder}/<class>/<image>. "
                f"Received: {path.name}"
            )


def _class(source: Path, path: ImagePath) -> str:
    """The class, from its folder or from the start of the file's name."""
    if path.below:
        return path.below[0]
    if path.above and not path.part:
        return path.above[-1]
    name, found, _ = PurePosixPath(path.name).name.partition("_")
    if not (name and found):
        raise DataError(
            f"{source}: an image must lie in the folder of its class or be "
            f"named <class>_<rest>. Received: {path.name}"
        )
    return name
