# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing, and the JSON that every benchmark writes.

Machines are noisy, so contestants take turns, the median counts, and only
ratios within one process are reported as results.
"""

import concurrent.futures
import json
import multiprocessing
import random
import socket
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tensorflow as tf

from keras_bn.environment import environment as about
from keras_bn.writing import write_json

Result = TypeVar("Result")


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
) -> dict[str, float]:
    """Median seconds of each contestant over rounds in which all take turns.

    Each round has an order of its own.

    Args:
        contestants: Functions without arguments that return when their work
            is done, or queued on a TensorFlow device.
        rounds: Number of rounds.
        warm_up: Rounds before these, unmeasured.

    Returns:
        Seconds per call, by name.
    """
    for _ in range(warm_up):
        for function in contestants.values():
            function()
            _wait()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = random.Random(0)
    for _ in range(rounds):
        # Each is affected by the caches that the one before it leaves.
        for name in order.sample(list(contestants), len(contestants)):
            started = time.perf_counter()
            contestants[name]()
            _wait()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(s) for name, s in seconds.items()}


def _wait() -> None:
    """Waits until GPUs have finished their work; CPUs already have."""
    if tf.config.list_physical_devices("GPU"):
        tf.test.experimental.sync_devices()


def in_a_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a function in a fresh process and returns its result.

    Neither earlier work nor earlier settings of TensorFlow affect it.
    """
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return pool.submit(function, *arguments).result()


def memory(field: str) -> float:
    """MiB of memory of this process.

    Args:
        field: `"VmRSS"`, what it holds, or `"VmHWM"`, the most it has held, as
            Linux counts them.
    """
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**10
    raise OSError(f"this kernel does not report {field}")


def cluster(processes: int) -> list[dict[str, str]]:
    """Environment variables to add for each of several processes.

    `TF_CONFIG` makes TensorFlow combine them to one cluster on this machine.
    """
    sockets = [socket.socket() for _ in range(processes)]
    try:
        for each in sockets:
            each.bind(("localhost", 0))
        ports = [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
    workers = {"worker": [f"localhost:{port}" for port in ports]}
    tasks = [{"type": "worker", "index": i} for i in range(processes)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": workers, "task": task})}
        for task in tasks
    ]


def environment() -> dict[str, Any]:
    """What the figures depend on: commit, versions, processor, GPUs."""
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return about(device=", ".join(map(str, names)) or "cpu")


def write(path: str | Path, results: Any) -> None:
    """Writes results and environment as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {"environment": environment(), "results": results}
    write_json(path, contents)
