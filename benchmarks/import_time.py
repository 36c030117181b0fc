# SPDX-License-Identifier: Apache-2.0
"""Seconds that `import keras_bn` adds to `import keras`.

    python -m benchmarks.import_time --output=docs/results/import-time.json

Each round is a fresh interpreter that imports Keras, with TensorFlow below it,
and then ours; medians over rounds.
"""

import statistics
import subprocess
import sys

from absl import app, flags

from benchmarks import measure

FLAGS = flags.FLAGS

PROGRAM = """
import time
started = time.perf_counter()
import keras
between = time.perf_counter()
import keras_bn
print(between - started, time.perf_counter() - between)
"""


def seconds() -> tuple[float, float]:
    """What `import keras` takes, and `import keras_bn` after it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
    )
    keras, added = map(float, done.stdout.split())
    return keras, added


def main(_: list[str]) -> None:
    """Measures, prints, writes the JSON."""
    runs = [seconds() for _ in range(FLAGS.rounds)]
    keras, added = (
        statistics.median(column) for column in zip(*runs, strict=True)
    )
    print(
        f"import keras {keras:.2f} s, import keras_bn adds {added:.3f} s: "
        f"{added / keras:.1%}"
    )
    measure.write(FLAGS.output, {"keras": keras, "added": added})


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 7, "processes", lower_bound=1)
    flags.DEFINE_string("output", "build/bench/import-time.json", "file")
    app.run(main)
