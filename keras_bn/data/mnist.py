# SPDX-License-Identifier: Apache-2.0
"""MNIST, 28x28: from a file, else by Keras' download."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_bn.data import files
from keras_bn.data.arrays import ArrayDataset, binary_rows
from keras_bn.data.errors import DataError

FILE = "mnist.npz"
NAMES = ("x_train", "y_train", "x_test", "y_test")


def load(data_dir: str | Path | None = None) -> ArrayDataset:
    """Loads MNIST as rows of 784 binary pixels.

    Args:
        data_dir: `mnist.npz` in Keras' layout, or the folder that holds it:
            `x_train` and `x_test`, `[N, 28, 28]`, uint8; `y_train` and
            `y_test`, `[N]`, integers 0 to 9. `None`: `keras.datasets` reads
            its cache or downloads.

    Raises:
        DataError: If the file is missing, damaged or holds something else,
            or the download fails.
    """
    if data_dir is None:
        arrays = _download()
    else:
        path = Path(data_dir)
        arrays = _read(path if path.is_file() else path / FILE)
    return ArrayDataset(
        name="mnist",
        x_train=binary_rows(arrays["x_train"], white=255),
        y_train=arrays["y_train"].astype(np.int32),
        x_test=binary_rows(arrays["x_test"], white=255),
        y_test=arrays["y_test"].astype(np.int32),
        classes=10,
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.exists():
        raise DataError(
            f"{path} does not exist. --data_dir must name {FILE} or the "
            "folder that holds it; without it, Keras downloads it"
        )
    arrays = files.arrays(path)
    if not arrays.keys() >= set(NAMES):
        raise DataError(
            f"{path} must hold {', '.join(NAMES)}. Received: "
            f"{', '.join(arrays) or 'nothing'}"
        )
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if (
            x.shape[1:] != (28, 28)
            or x.dtype != np.uint8
            or y.shape != x.shape[:1]
            or y.dtype.kind not in "iu"
        ):
            raise DataError(
                f"{path} must hold images [N, 28, 28], uint8, and labels [N], "
                f"integers. Received: x_{part} {x.shape}, {x.dtype}, "
                f"y_{part} {y.shape}, {y.dtype}"
            )
        wrong = y[(y < 0) | (y > 9)]
        if len(wrong):
            raise DataError(
                f"{path} must hold labels 0 to 9. Received: y_{part} with "
                f"{wrong[0]}"
            )
    return arrays


def _download() -> dict[str, NDArray[Any]]:
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    except Exception as error:  # Keras raises bare Exception
        raise DataError(
            f"Keras could not download MNIST: {error}. Name a folder that "
            f"holds {FILE} with --data_dir"
        ) from None
    return {
        "x_train": x_train,
        "y_train": y_train,
        "x_test": x_test,
        "y_test": y_test,
    }
