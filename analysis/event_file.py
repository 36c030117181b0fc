# SPDX-License-Identifier: Apache-2.0
"""Event files in TensorBoard's format, on disks that may be full.

Records are collected in memory and appended together. If that fails, the part
that was written is removed again, so that the file stays readable, and the
records wait for the next attempt: no measurement is worth a lost run.
"""

import contextlib
import io
import itertools
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from analysis import files

_LOG = logging.getLogger(__name__)
_NUMBERS = itertools.count()
#: Suffix of the files that this module has created.
_OURS = ".keras_bn"
#: A record's length with its checksum; then all bytes around the data, which
#: include the data's checksum.
_HEAD = struct.Struct("<QI")
_AROUND = _HEAD.size + 4


class EventFile:
    """Appends events to a new file of a folder.

    Args:
        folder: The folder, which must exist.
    """

    def __init__(self, folder: Path) -> None:
        number = next(_NUMBERS)
        # Readers take the files in the order of their names, and clocks may
        # have been set back since the last one.
        seconds = int(time.time())
        for path in own_files(folder)[-1:]:
            seconds = max(seconds, int(path.name.split(".")[3]) + 1)
        self.path = folder / (
            f"events.out.tfevents.{seconds:010d}."
            f"{socket.gethostname()}.{os.getpid()}.{number}{_OURS}"
        )
        self._waiting = io.BytesIO()
        self._records = RecordWriter(self._waiting)
        self._size = 0
        self._failed = False
        self.add(event_pb2.Event(file_version="brain.Event:2"))

    def add(self, event: event_pb2.Event) -> None:
        """Queues an event."""
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def flush(self) -> bool:
        """Writes all queued events, if the disk allows.

        Returns:
            Whether they were written. The first failure is logged.
        """
        data = self._waiting.getvalue()
        try:
            append(self.path, data)
        except OSError as error:
            _cut_off(self.path, self._size)
            if not self._failed:
                _LOG.warning(
                    "%s cannot be written (%s); measurements wait in memory, "
                    "training goes on",
                    self.path,
                    error.strerror or error,
                )
            self._failed = True
            return False
        self._size += len(data)
        self._failed = False
        self._waiting.seek(0)
        self._waiting.truncate()
        return True

    def close(self) -> None:
        """Writes all queued events; those that cannot be written are lost."""
        if not self.flush():
            _LOG.warning(
                "%s lacks the last %d bytes of measurements",
                self.path,
                self._waiting.tell(),
            )


def append(path: Path, data: bytes) -> None:
    """Appends to a file, which is created if missing."""
    with path.open("ab") as file:
        file.write(data)


def _cut_off(path: Path, size: int) -> None:
    with contextlib.suppress(OSError):  # perhaps it could not even be made
        os.truncate(path, size)


def event_files(folder: Path) -> list[Path]:
    """The event files of one folder, oldest first.

    Raises:
        OSError: If the folder exists but cannot be listed.
    """
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        folder / name
        for name in names
        if name.startswith("events.out.tfevents.")
    ]


def own_files(folder: Path) -> list[Path]:
    """The event files that `EventFile` has created, without those of others."""
    return [path for path in event_files(folder) if path.suffix == _OURS]


def read_events(
    path: Path, *, warn: Callable[[str], None] = _LOG.warning
) -> Iterator[event_pb2.Event]:
    """The events of a file, up to any point where it is cut off or damaged.

    Args:
        path: The file, which may still be written.
        warn: Called with a line if the file is damaged. Being cut off within
            the last record is not damage: so is any file that is being written.

    Raises:
        OSError: If it cannot be read; the message names it.
    """
    if not path.is_file():  # A named pipe would wait for ever.
        raise OSError(f"{path} cannot be read: it is no file")
    read = step = 0
    try:
        # Taken before reading, as the file may grow meanwhile.
        size = path.stat().st_size
        for record in event_file_loader.RawEventFileLoader(str(path)).Load():
            event = event_pb2.Event.FromString(record)
            read += len(record) + _AROUND
            step = event.step
            yield event
        damaged = _is_damaged(path, read, size)
    except Exception as error:  # TensorBoard and protobuf raise all sorts.
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"{path} cannot be read after step {step:,}: "
            f"{' '.join(reason.split()) or type(error).__name__:.200}"
        ) from error
    if damaged:
        warn(f"{path} is damaged after step {step:,}: its rest cannot be read")


def _is_damaged(path: Path, start: int, end: int) -> bool:
    """Whether the unread part is more than the beginning of a record.

    A record is its length, the length's checksum, the data, their checksum.
    """
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(_HEAD.size)
    if end - start < _HEAD.size:
        return False
    length, checksum = _HEAD.unpack(head)
    is_whole: bool = end - start >= length + _AROUND
    return is_whole or checksum != masked_crc32c(head[:8])


def scalars(
    folder: Path, *, warn: Callable[[str], None] = _LOG.warning
) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of every scalar in a folder's files, as written.

    Args:
        folder: The folder.
        warn: See `read_events`; also called for a file that cannot be read.
    """
    for path in event_files(folder):
        try:
            for event in read_events(path, warn=warn):
                for value in event.summary.value:
                    number = _scalar(value)
                    if number is not None:
                        yield value.tag, event.step, number
        except OSError as error:
            warn(str(error))


def _scalar(value: Any) -> float | None:
    """The number that a summary's value holds; `None` for other kinds."""
    # An empty shape is a scalar; histograms, images and texts have axes.
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    try:
        number = tensor_util.make_ndarray(value.tensor)
    except (TypeError, ValueError):  # fewer bytes than it should have
        return None
    return float(number) if number.dtype.kind == "f" else None


def texts(folder: Path) -> Iterator[tuple[str, int, str]]:
    """Tag, step and contents of every text in a folder's files, as written."""
    for path in event_files(folder):
        for event in read_events(path):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "text":
                    array = tensor_util.make_ndarray(value.tensor)
                    yield value.tag, event.step, array.flat[0].decode("utf-8")


def drop_events_after(folder: Path, step: int) -> None:
    """Removes from `own_files` the events after `step` steps.

    Args:
        folder: The folder.
        step: The last step that stays; -1 removes the files.
    """
    for path in own_files(folder):
        events = list(read_events(path))
        kept = [event for event in events if event.step <= step]
        if not kept:
            path.unlink()
            continue
        if len(kept) == len(events):
            continue
        buffer = io.BytesIO()
        records = RecordWriter(buffer)
        for event in kept:
            records.write(event.SerializeToString())
        files.write(path, buffer.getvalue())
