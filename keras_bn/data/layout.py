# SPDX-License-Identifier: Apache-2.0
"""Which part of a data set and which class an image is of, by its path."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from keras_bn.data.arrays import DataError

SUFFIXES = (".jpg", ".jpeg", ".png")
#: Names of the folder of the training part and of those of the test part.
TRAIN, TEST = "train", ("val", "validation", "test")


@dataclasses.dataclass(frozen=True)
class ImagePath:
    """Where an image lies.

    Attributes:
        name: Its path, with `/`.
        above: The folders above the part's; all, where there is no part.
        part: The part's folder; empty where there is none.
        below: The folders below the part's.
    """

    name: str
    above: tuple[str, ...]
    part: str
    below: tuple[str, ...]

    @classmethod
    def of(cls, name: str) -> "ImagePath":
        """The first folder with the name of a part is one."""
        folders = PurePosixPath(name).parts[:-1]
        for depth, folder in enumerate(folders):
            if folder in (TRAIN, *TEST):
                return cls(name, folders[:depth], folder, folders[depth + 1 :])
        return cls(name, folders, "", ())


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the data's."""
    return name.startswith((".", "__MACOSX"))


def is_image(name: str) -> bool:
    """Whether a path is that of an image, and not hidden."""
    path = PurePosixPath(name)
    hidden = any(map(is_hidden, path.parts))
    return path.suffix.lower() in SUFFIXES and not hidden


def parts_and_classes(
    source: Path, names: Sequence[str]
) -> list[tuple[str, str]]:
    """The part, `"train"` or `"test"`, and the class of each image.

    Args:
        source: What to name in messages.
        names: The images' paths in it, with `/`.

    Raises:
        DataError: If a folder that has the name of a part cannot be one, or
            the class of an image is not said.
    """
    paths = [ImagePath.of(name) for name in names]
    _check_parts(source, paths)
    return [
        ("test" if path.part in TEST else TRAIN, _class(source, path))
        for path in paths
    ]


def _check_parts(source: Path, paths: Sequence[ImagePath]) -> None:
    """Tells parts from classes that have such a name."""
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


def _class(source: Path, path: ImagePath) -> str:
    """The folder of the class, or what a file's name begins with."""
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
