# SPDX-License-Identifier: Apache-2.0
"""What crosses the network in a step of synchronized training.

    python -m benchmarks.collectives

Two processes on this machine train the MLP with `strategy=multiworker`. The
collectives of a step, what they carry and their bytes are read from its graph;
the bytes that the loopback device really carried are read from the system.
Each tensor is summed over all processes: with n of them a ring sends
2 (n - 1) / n of its bytes from each.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import measure

FLAGS = flags.FLAGS


def worker(output: str) -> None:
    """One process: counts, trains, writes what it saw."""
    import tensorflow as tf

    from keras_bn import training
    from keras_bn.backend import strategies
    from keras_bn.data import digits
    from keras_bn.recipes import Recipe

    results = []
    for norm, depth in itertools.product(("batch", "none"), (1, 3, 6)):
        recipe = Recipe(
            strategy="multiworker",
            norm=norm,
            depth=depth,
            steps=FLAGS.steps,
        )
        training.start(recipe)
        strategy = strategies.make("multiworker", 0)
        dataset = digits.load()
        with strategy.scope():
            model = training.build_model(
                recipe,
                input_shape=dataset.input_shape,
                classes=dataset.classes,
            )
        steps: Any = training.make_steps(recipe, dataset, model, strategy)
        steps.train(0, 5)
        graph = steps.train_graph()
        reduced = [op for op in graph.get_operations() if _adds_up(op)]
        before, started = _loopback_bytes(), time.perf_counter()
        steps.train(5, FLAGS.steps)
        seconds = (time.perf_counter() - started) / FLAGS.steps
        sent = (_loopback_bytes() - before) / FLAGS.steps
        results.append(
            {
                "norm": norm,
                "layers": depth,
                "parameters": sum(
                    tf.size(w).numpy() for w in model.trainable_weights
                ).item(),
                "collectives": [
                    {
                        "bytes": _bytes(op),
                        "of": "gradients"
                        if "sgd" in op.name
                        else "forward or backward",
                    }
                    for op in reduced
                ],
                "bytes_on_loopback_per_step": sent,
                "seconds_per_step": seconds,
            }
        )
    Path(output).write_text(json.dumps(results), "utf-8")


def _adds_up(operation: Any) -> bool:
    return operation.type.startswith("CollectiveReduce")


def _bytes(operation: Any) -> int:
    tensor = operation.outputs[0]
    size = tensor.shape.num_elements()
    return -1 if size is None else size * tensor.dtype.size


def _loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text("ascii").splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[8])
    return 0


def main(_: list[str]) -> None:
    """Starts the two processes; prints and writes what they saw."""
    if FLAGS.worker:
        worker(FLAGS.worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.json" for i in range(2)]
        running = []
        for file, added in zip(files, measure.cluster(2), strict=True):
            running.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "benchmarks.collectives"),
                        f"--worker={file}",
                        f"--steps={FLAGS.steps}",
                    ],
                    env={**os.environ, **added},
                )
            )
        _wait_for_all(running)
        results = json.loads(files[0].read_text("utf-8"))
    print("norm   layers  collectives  their bytes  loopback bytes  ms/step")
    for row in results:
        known = [c["bytes"] for c in row["collectives"]]
        print(
            f"{row['norm']:6} {row['layers']:6} {len(known):12} "
            f"{sum(known):12,} {row['bytes_on_loopback_per_step']:15,.0f} "
            f"{row['seconds_per_step'] * 1e3:8.1f}"
        )
    measure.write(FLAGS.output, results)


def _wait_for_all(running: list[subprocess.Popen[bytes]]) -> None:
    """Waits; if one fails, kills the others, which may be waiting for it."""
    try:
        while None in (codes := [process.poll() for process in running]):
            if any(codes):
                break
            time.sleep(0.1)
        if any(codes):
            raise SystemExit("a process failed")
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    flags.DEFINE_integer("steps", 200, "measured steps", lower_bound=1)
    flags.DEFINE_string("worker", None, "run as one process; file to write")
    flags.DEFINE_string(
        "output", "build/bench/collectives.json", "file to write"
    )
    app.run(main)
