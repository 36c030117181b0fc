# SPDX-License-Identifier: Apache-2.0
"""Data sets, each loaded by name into arrays or a pipeline."""

from pathlib import Path
from typing import Any

from keras_bn.data import cifar10, digits, image_folder, mnist, tfrecords
from keras_bn.data.arrays import ArrayDataset
from keras_bn.data.errors import DataError

__all__ = ["FLAT", "ArrayDataset", "DataError", "load", "usual_shape"]

#: Names of the data sets of flat rows; the others are of colour images.
FLAT = ("digits", "mnist")


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
) -> Any:
    """Loads a data set.

    Args:
        name: `"digits"` (8x8, bundled with scikit-learn) or `"mnist"`
            (28x28), binary images as flat rows; `"cifar10"`,
            `"image_folder"` or `"tfrecords"`, colour images in files.
        data_dir: Where the data lie; see docs/data.md. `None` lets Keras
            download MNIST and CIFAR-10.
        image_size: Height and width in pixels of what a network gets of
            colour images. `None`: 32 for `"cifar10"`; the others need one.

    Returns:
        An `ArrayDataset`, or an `ImageDataset` for colour images.

    Raises:
        ValueError: If `name` is unknown, or colour images have no size >= 1.
        DataError: If the data are missing, damaged or of the wrong shape.
    """
    if name == "digits":
        return digits.load()
    if name == "mnist":
        return mnist.load(data_dir)
    loaders: dict[str, Any] = {
        "cifar10": cifar10.load,
        "image_folder": image_folder.load,
        "tfrecords": tfrecords.load,
    }
    if name not in loaders:
        raise ValueError(
            f"dataset must be one of {', '.join((*FLAT, *loaders))}. "
            f"Received: dataset={name}"
        )
    if image_size is None and name == "cifar10":
        image_size = cifar10.IMAGE_SIZE
    if image_size is None or image_size < 1:
        raise ValueError(
            f"image_size must be >= 1. Received: image_size={image_size}"
        )
    return loaders[name](data_dir, image_size=image_size)


def usual_shape(name: str, *, image_size: int) -> tuple[tuple[int, ...], int]:
    """Input shape and classes of a network for a data set, without its files.

    Args:
        name: As for `load`.
        image_size: Likewise.

    Returns:
        The shape of an example, and the number of classes: ImageNet's 1,000 for
        images in folders and shards, which may have any.
    """
    pixels = {"digits": 8 * 8, "mnist": 28 * 28}
    if name in pixels:
        return (pixels[name],), 10
    return (image_size, image_size, 3), 10 if name == "cifar10" else 1000
