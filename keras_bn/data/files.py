# SPDX-License-Identifier: Apache-2.0
"""Files from elsewhere: any problem with one becomes a `DataError`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from keras_bn.data.errors import DataError


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, to be read within a `with` block.

    Raises:
        DataError: If it is no regular file (a named pipe would wait for ever),
            or if anything goes wrong in the block.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} must be a file, which it is not")
        with path.open("rb") as file:
            yield file
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise all sorts.
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}") from error


def text(path: Path) -> str:
    """The text of a UTF-8 file; raises `DataError` like `opened`."""
    with opened(path) as file:
        return file.read().decode("utf-8")


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """An `.npz` file's arrays by name; raises `DataError` like `opened`."""
    with opened(path) as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} cannot be read: it is no .npz archive")
        # A member that is no array comes as bytes.
        return {name: np.asarray(archive[name]) for name in archive}
