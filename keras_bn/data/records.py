# SPDX-License-Identifier: Apache-2.0
"""Encoded images by index, each a piece of a file that is read on demand."""

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

#: Seconds to wait before each further attempt to read an image.
PAUSES = (0.1, 1.0, 3.0)
#: Errors that no further attempt would cure.
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
        inflated_size: Its size once inflated, in bytes, if it is a compressed
            member of an archive.
    """

    name: str
    file: str
    offset: int
    size: int
    inflated_size: int | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: If it cannot be read, even after retries.
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
            # 0 would mean no limit.
            data = inflate.decompress(data, self.inflated_size or 1)
        return data


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, thread_name_prefix="read-images")


# After a fork, a child has no threads except the one that forked.
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
        # In parallel, because remote files are slow to answer.
        data = np.array(list(_readers().map(Record.read, records)), object)
        return data, self.labels[rows]

    def update_digest(self, digest: Any) -> None:
        """Adds the names and sizes of the images to a `hashlib` hash.

        To read all images would take too long.
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
