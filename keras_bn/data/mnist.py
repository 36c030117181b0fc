# SPDX-License-Identifier: Apache-2.0
"""MNIST, 28x28: from a file, else by Keras' download."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_bn.data.arrays import ArrayDataset, DataError, binary_rows

FILE = "mnist.npz"


def load(data_dir: str | Path | None = None) -> ArrayDataset:
    """Loads MNIST as rows of 784 binary pixels.

    Args:
        data_dir: Folder with `mnist.npz` in Keras' layout: `x_train`,
            `y_train`, `x_test`, `y_test`, uint8. `None`: `keras.datasets`
            reads its cache or downloads.

    Raises:
        DataError: If the file is missing, damaged or holds something else,
            or the download fails.
    """
    arrays = _download() if data_dir is None else _read(Path(data_dir) / FILE)
    return ArrayDataset(
        name="mnist",
        x_train=binary_rows(arrays["x_train"], white=255),
        y_train=arrays["y_train"].astype(np.int32),
        x_test=binary_rows(arrays["x_test"], white=255),
        y_test=arrays["y_test"].astype(np.int32),
        classes=10,
    )


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with (
            path.open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            arrays = {name: archive[name] for name in names}
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist. --data_dir must name the folder that "
            f"holds {FILE}; without it, Keras downloads it"
        ) from None
    except KeyError as error:
        raise DataError(
            f"{path} must hold {', '.join(names)}. {error.args[0]}"
        ) from None
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        raise DataError(f"{path} cannot be read, it is damaged: {e}") from None
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.shape[1:] != (28, 28) or y.shape != x.shape[:1]:
            raise DataError(
                f"{path} must hold images [N, 28, 28] and labels [N]. "
                f"Received: x_{part} {x.shape}, y_{part} {y.shape}"
            )
        if y.max(initial=0) > 9:
            raise DataError(
                f"{path} must hold labels 0 to 9. Received: y_{part} with "
                f"{y.max()}"
            )
    return arrays


def _download() -> dict[str, NDArray[np.generic]]:
    import keras

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
