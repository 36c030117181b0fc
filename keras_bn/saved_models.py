# SPDX-License-Identifier: Apache-2.0
"""Models in files."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras

from keras_bn.errors import ExpectedError, reason


def load(path: Path, *, compiled: bool = False) -> keras.Model:
    """The model of a file.

    Args:
        path: The file: `.keras`, or `.h5` of earlier versions of Keras.
        compiled: Whether to compile it as it was, if Keras knows its loss and
            its metrics.

    Raises:
        ExpectedError: If the file is missing, damaged or holds no model.
    """
    with blaming(path, "cannot be read"):
        if path.exists() and not path.is_file():
            raise ExpectedError("it is no file")
        with path.open("rb") as file:
            # Keras says "not found" about any file that is no archive.
            if path.suffix == ".keras" and not zipfile.is_zipfile(file):
                raise ExpectedError("it is no .keras archive, or damaged")
        if compiled:
            # An unknown loss or metric may raise anything; an error in the
            # model itself is raised again below.
            with contextlib.suppress(Exception):
                return keras.models.load_model(path)
        return keras.models.load_model(path, compile=False)


@contextlib.contextmanager
def blaming(path: Path, what: str) -> Iterator[None]:
    """Turns any error within into an `ExpectedError` that names the file."""
    try:
        yield
    except OSError as error:
        why = error.strerror or reason(error)
        raise ExpectedError(f"{path} {what}: {why}") from error
    except Exception as error:  # Keras raises anything on a broken file.
        raise ExpectedError(f"{path} {what}: {reason(error)}") from error
