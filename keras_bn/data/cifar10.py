# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10: 60,000 colour images of 32x32 pixels in ten classes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_bn.data import image_folder
from keras_bn.data.errors import DataError
from keras_bn.data.images import ImageDataset

ARCHIVE = "cifar10-jpeg.zip"
#: Height and width of the images, in pixels.
IMAGE_SIZE = 32


def load(
    data_dir: str | Path | None = None, *, image_size: int = IMAGE_SIZE
) -> ImageDataset:
    """Loads CIFAR-10.

    Args:
        data_dir: A folder or a zip archive with `train/<class>/<image>` and
            `test/<class>/<image>`, or a folder that holds `cifar10-jpeg.zip`.
            `None`: Keras' download, kept beside its cache as such an archive.
        image_size: Height and width of the network's input, in pixels.

    Raises:
        DataError: If the data are missing or damaged.
    """
    path = _download() if data_dir is None else Path(data_dir)
    if (path / ARCHIVE).exists():
        path = path / ARCHIVE
    dataset = image_folder.load(
        path, image_size=image_size, name="cifar10", padded=True
    )
    if dataset.classes != 10:
        raise DataError(
            f"{path} must hold the ten classes of CIFAR-10. "
            f"Received: {dataset.classes}"
        )
    return dataset


def _download() -> Path:
    # As Keras itself chooses it; it does not say so in public.
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    path = home / "datasets" / "cifar10-png.zip"
    if path.exists():
        return path
    try:
        parts = keras.datasets.cifar10.load_data()
    except Exception as error:  # Keras raises bare Exception
        raise DataError(
            f"Keras could not download CIFAR-10: {error}. Name a folder or an "
            "archive of its images with --data_dir"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    image_folder.write_archive(path, _members(parts))
    return path


def _members(parts: Any) -> Iterator[tuple[str, bytes]]:
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        for number, (image, label) in enumerate(
            zip(images, labels.ravel(), strict=True)
        ):
            png = tf.io.encode_png(image).numpy()
            yield f"{part}/{label}/{number:05d}.png", png
