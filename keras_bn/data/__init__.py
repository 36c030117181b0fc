# SPDX-License-Identifier: Apache-2.0
"""Data sets, each loaded by name into arrays or a pipeline."""

from pathlib import Path

from keras_bn.data import digits, mnist
from keras_bn.data.arrays import ArrayDataset, DataError

__all__ = ["ArrayDataset", "DataError", "load"]


def load(name: str, *, data_dir: str | Path | None = None) -> ArrayDataset:
    """Loads a data set of binary images as flat float32 rows.

    Args:
        name: `"digits"` (8x8, bundled with scikit-learn) or `"mnist"`
            (28x28).
        data_dir: Folder that holds `mnist.npz`; `None` lets Keras download
            it. Unused for digits.

    Raises:
        ValueError: If `name` is unknown.
        DataError: If the data are missing, damaged or of the wrong shape.
    """
    if name == "digits":
        return digits.load()
    if name == "mnist":
        return mnist.load(data_dir)
    raise ValueError(
        f"dataset must be one of digits, mnist. Received: dataset={name}"
    )
