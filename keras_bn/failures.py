# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's errors, grouped by cause: memory, another process, the data."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from keras_bn.errors import ExpectedError, reason

#: What is raised where memory, of whatever device, is not enough.
OUT_OF_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)
#: What collectives raise when another process of the run is gone.
PROCESS_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class InputError(ExpectedError):
    """A batch cannot be read."""


@contextlib.contextmanager
def reading(*, operation: str = "") -> Iterator[None]:
    """Turns errors in reading batches into an `InputError`.

    Args:
        operation: Name of the operation that reads, if the block also runs
            others.

    Raises:
        InputError: In place of an `OSError` or a TensorFlow error, except for
            errors of memory and of other processes.
    """
    try:
        yield
    except (*OUT_OF_MEMORY, *PROCESS_LOST):
        raise
    except (tf.errors.OpError, OSError) as error:
        if operation not in str(error):
            raise
        raise InputError(f"a batch cannot be read: {reason(error)}") from None


def readable(make: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The batches of a data set that is made here.

    Args:
        make: Returns a data set, or another iterable, of batches.

    Raises:
        InputError: Where a batch cannot be read; see `reading`.
    """
    with reading():
        iterator = iter(make())
    while True:
        with reading():
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch
