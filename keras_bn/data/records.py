# SPDX-License-Identifier: Apache-2.0
"""Encoded images by number, each a piece of a file, read when it is needed."""

import dataclasses
import errno
import functools
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Seconds before further attempts to read an image.
PAUSES = (0.1, 1.0, 3.0)
#: What no further attempt changes.
_FOR_GOOD = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENODATA)
#: Images read at a time.
READERS = 16


@dataclasses.dataclass(frozen=True)
class Record:
    """A piece of a file that holds one encoded image.

    Attributes:
        name: What to call it in messages.
        file: Path of the file.
        offset: Where it starts, in bytes.
        size: How long it is, in bytes.
        inflated_size: Its bytes once inflated, where a member of an archive
            is compressed.
    """

    name: str
    file: str
    offset: int
    size: int
    inflated_size: int | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: If it cannot be read, nor a little later.
        """
        for pause in PAUSES:
            try:
                return self._read()
            except OSError as error:
                if error.errno in _FOR_GOOD:
                    raise
                time.sleep(pause)  # A network may be gone for a moment.
        return self._read()

    def _read(self) -> bytes:
        with open(self.file, "rb") as file:
            data = os.pread(file.fileno(), self.size, self.offset)
        if len(data) < self.size:
            raise OSError(
                errno.ENODATA,
                f"it ends after {len(data):,} of {self.size:,} bytes",
                self.file,
            )
        if self.inflated_size is not None:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            # A limit of 0 would be none.
            data = inflate.decompress(data, self.inflated_size or 1)
        return data


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, thread_name_prefix="read-images")


# A child has no threads but the one that made it.
os.register_at_fork(after_in_child=_readers.cache_clear)


@dataclasses.dataclass(frozen=True)
class Images:
    """Labelled images of one part of a data set.

    Attributes:
        records: Where they are.
        labels: Their classes `[N]`, int32, from 0.
        in_examples: Whether a record is a `tf.train.Example` with the image
            inside, rather than the image itself.
    """

    records: Sequence[Record]
    labels: NDArray[np.int32]
    in_examples: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def take(
        self, rows: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
        """The records of some rows, `[n]` bytes, and their labels `[n]`."""
        records = [self.records[row] for row in rows]
        # Side by side, as a file elsewhere takes its time to answer.
        data = np.array(list(_readers().map(Record.read, records)), object)
        return data, self.labels[rows]

    def update_digest(self, digest: Any) -> None:
        """Adds to a hash of `hashlib` which images these are.

        By name and size: to read them all would take too long.
        """
        for record in self.records:
            line = f"{record.name}\0{record.size}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))

    def only(self, rows: NDArray[np.integer[Any]]) -> "Images":
        """Some of the images, not read yet."""
        return dataclasses.replace(
            self,
            records=[self.records[row] for row in rows],
            labels=self.labels[rows],
        )
