# SPDX-License-Identifier: Apache-2.0
"""Data sets, each loaded by name into arrays or a pipeline."""

from pathlib import Path
from typing import Any

from keras_bn.data import digits, mnist
from keras_bn.data.arrays import ArrayDataset, DataError

__all__ = ["ArrayDataset", "DataError", "load"]


def load(
    name: str, *, data_dir: str | Path | None = None, image_size: int = 0
) -> Any:
    """Loads a data set.

    Args:
        name: `"digits"` (8x8, bundled with scikit-learn) or `"mnist"`
            (28x28), binary images as flat rows; `"cifar10"`,
            `"image_folder"` or `"tfrecords"`, colour images in files.
        data_dir: Where the data lie; see docs/data.md. `None` lets Keras
            download MNIST and CIFAR-10.
        image_size: Height and width of colour images.

    Returns:
        An `ArrayDataset`, or an `ImageDataset` for colour images.

    Raises:
        ValueError: If `name` is unknown.
        DataError: If the data are missing, damaged or of the wrong shape.
    """
    if name == "digits":
        return digits.load()
    if name == "mnist":
        return mnist.load(data_dir)
    # Here, as they need TensorFlow.
    from keras_bn.data import cifar10, image_folder, tfrecords

    loaders: dict[str, Any] = {
        "cifar10": cifar10.load,
        "image_folder": image_folder.load,
        "tfrecords": tfrecords.load,
    }
    if name in loaders:
        return loaders[name](data_dir, image_size=image_size)
    raise ValueError(
        "dataset must be one of digits, mnist, "
        f"{', '.join(loaders)}. Received: dataset={name}"
    )
