# SPDX-License-Identifier: Apache-2.0
"""Signals that end a run after the steps under way, with a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import keras

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_training(model: keras.Model) -> Iterator[list[int]]:
    """Turns the first of these signals into `model.stop_training`.

    A SIGHUP that is ignored, as under `nohup`, stays ignored. A terminal that
    is closed sends several SIGHUPs, so those after the first are ignored.
    """
    received: list[int] = []
    model.stop_training = False
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    earlier = {number: signal.getsignal(number) for number in ENDING}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        model.stop_training = True
        restore()
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)

    for number, handler in earlier.items():
        if (number, handler) != (signal.SIGHUP, signal.SIG_IGN):
            signal.signal(number, stop)
    try:
        yield received
    finally:
        restore()
