# SPDX-License-Identifier: Apache-2.0
"""Converts images to TFRecord shards.

    python -m keras_bn.data.tfrecords SRC DST --shards=128

SRC is a folder or a zip archive of images (docs/data.md). DST gets
`train-00000-of-00128` ..., `validation-...` and `classes.txt`. Complete shards
are kept, so that an interrupted conversion can be resumed. The field names are
those of the common ImageNet shards; labels count from 0, unless
`--first_label=1`.
"""

import signal
import sys
from types import FrameType

from absl import flags

from keras_bn.command_line import Command
from keras_bn.data.tfrecords import sharding

FLAGS = flags.FLAGS


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def _terminate(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # Cleaning up takes a moment.
    raise _Terminated


def main(source: str, target: str) -> int:
    """Converts, prints how many images there are; returns the exit code."""
    earlier = signal.signal(signal.SIGTERM, _terminate)
    try:
        counts = sharding.write(
            source,
            target,
            shards=FLAGS.shards,
            first_label=FLAGS.first_label,
            seed=FLAGS.seed,
        )
        print(", ".join(f"{name}: {n:,}" for name, n in counts.items()))
    except _Terminated:
        print("tfrecords: ended by SIGTERM", file=sys.stderr)
        return 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, earlier)
    return 0


if __name__ == "__main__":
    flags.DEFINE_integer("shards", 16, "training shards", lower_bound=1)
    flags.DEFINE_integer("first_label", 0, "label of the first class", 0, 1)
    flags.DEFINE_integer("seed", 0, "of the order of the images")
    Command("tfrecords", main, ("SRC", "DST")).run()
