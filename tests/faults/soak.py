# SPDX-License-Identifier: Apache-2.0
"""Kills a run many times, and compares it with an uninterrupted one.

python -m tests.faults.soak --kills=300
"""

import tempfile
from pathlib import Path

from absl import app, flags

from tests.faults import processes

FLAGS = flags.FLAGS


def main(_: list[str]) -> None:
    """Runs until so many kills have hit; raises where a bit differs."""
    hits = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        assert processes.end(processes.start(whole))[0] == 0
        seed = 0
        while hits < FLAGS.kills:
            logdir = Path(folder) / f"seed{seed}"
            hits += processes.kill_until_done(
                logdir,
                seed=seed,
                between=tuple(map(float, FLAGS.seconds)),
                most=30,
            )
            processes.assert_same_run(logdir, whole)
            seed += 1
            print(f"{hits} kills, {seed} runs, all the same bits", flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 300, "how many", lower_bound=1)
    flags.DEFINE_list("seconds", ["2", "6"], "a kill comes between these")
    app.run(main)
