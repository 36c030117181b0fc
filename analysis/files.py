# SPDX-License-Identifier: Apache-2.0
"""Writes files completely or not at all.

Like `keras_bn.writing`, but without TensorFlow.
"""

import os
import tempfile
from pathlib import Path


def write(path: Path, contents: bytes) -> None:
    """Writes to a temporary name and renames it.

    Raises:
        OSError: If that fails; the message names the file.
    """
    temporary = path.with_name(f"tmp.{os.getpid()}.{path.name}")
    try:
        temporary.write_bytes(contents)
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Checks in advance that a file can be written, before hours of work.

    Args:
        path: The file; its folder is made if missing.

    Raises:
        OSError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from None
    if path.is_dir():
        raise OSError(f"{path} cannot be written: it is a folder")
