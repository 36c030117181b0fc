# SPDX-License-Identifier: Apache-2.0
"""Images in folders named after their classes, or in a zip archive of them."""

import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path

from keras_bn.data import listing, verification
from keras_bn.data.errors import DataError
from keras_bn.data.images import ImageDataset
from keras_bn.writing import replacing

_LOG = logging.getLogger(__name__)


def load(
    data_dir: str | Path | None,
    *,
    image_size: int,
    name: str = "image_folder",
    padded: bool = False,
) -> ImageDataset:
    """Lists the images; see `keras_bn.data.listing.read_tree` for the layout.

    Args:
        data_dir: The folder or the zip archive, which is not extracted.
        image_size: Height and width of the network's input, in pixels.
        name: Name of the data set.
        padded: See `ImageDataset`.

    Raises:
        DataError: If there are no images, or none that are intact.
    """
    if data_dir is None:
        raise DataError(
            f"dataset={name} needs --data_dir: a folder or a zip archive with "
            "train/<class>/<image> and val/<class>/<image>"
        )
    tree = verification.verified(listing.read_tree(data_dir))
    test = tree.test
    if not len(test):
        _LOG.warning(
            "%s has no val/ or test/ part: accuracy is measured on the "
            "training images",
            data_dir,
        )
        test = tree.train
    verification.warn_of_skipped(name, tree.skipped)
    return ImageDataset(
        name=name,
        classes=len(tree.classes),
        image_size=image_size,
        training_images=tree.train,
        test_images=test,
        padded=padded,
        skipped=tree.skipped,
    )


def write_archive(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Writes an uncompressed zip archive, completely or not at all."""
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for name, data in members:
            archive.writestr(name, data)
