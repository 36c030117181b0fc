# SPDX-License-Identifier: Apache-2.0
"""The devices that a run is spread over, by tf.distribute."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bn.backend.replicas import total

Strategy = Any  # tf.distribute.Strategy is untyped for mypy.


@functools.cache
def make(name: str, replicas: int, /) -> Strategy:
    """The strategy of that name; one object per process and arguments.

    Must be called before any other use of TensorFlow if `replicas` splits the
    CPU or `name` is `"multiworker"`.

    Args:
        name: `"one_device"`, `"mirrored"` (all GPUs of this machine; with a
            single device the same as `"one_device"`) or
            `"multiworker"` (all machines that `TF_CONFIG` names).
        replicas: How many devices of this machine to use; 0 for all. Without
            a GPU the CPU is split into as many logical devices.

    Raises:
        ValueError: If the machine lacks the devices, or `TF_CONFIG` is not
            as TensorFlow documents it.
    """
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "multiworker":
        _check_cluster(os.environ.get("TF_CONFIG", ""))
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        _split_cpu(max(replicas, 1))
    kind = "GPU" if gpus else "CPU"
    devices = [d.name for d in tf.config.list_logical_devices(kind)]
    if replicas > len(devices):
        raise ValueError(
            f"replicas must be <= {len(devices)}, the number of {kind}s. "
            f"Received: replicas={replicas}"
        )
    devices = devices[: replicas or None]
    # A single device needs no collectives, so a whole step can be compiled.
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(devices)


def is_alone(strategy: Strategy) -> bool:
    """Whether it is one device of one process."""
    one = strategy.num_replicas_in_sync == 1
    return one and not several_processes(strategy)


def is_chief(strategy: Strategy) -> bool:
    """Whether this process writes the run's files."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    if resolver.task_type == "chief":
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return not has_chief and resolver.task_id == 0


def describe(strategy: Strategy) -> str:
    """Kind and number of the devices that train."""
    kind = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
    count = strategy.num_replicas_in_sync
    return kind if count == 1 else f"{count} x {kind}"


def several_replicas() -> bool:
    """Whether the strategy in whose scope this is called has several."""
    return tf.distribute.get_strategy().num_replicas_in_sync > 1


def several_processes(strategy: Strategy) -> bool:
    """Whether other processes train along."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def from_first(strategy: Strategy, arrays: Sequence[Any]) -> list[Any]:
    """The arrays of the first replica, on every process."""
    if not several_processes(strategy):
        return list(arrays)

    def one() -> list[Any]:
        context = tf.distribute.get_replica_context()
        first = context.replica_id_in_sync_group == 0
        return [
            total(tf.where(first, tensor, tf.zeros_like(tensor)))
            for tensor in map(_reducible, arrays)
        ]

    shared = tf.function(lambda: strategy.run(one))()
    values = [strategy.experimental_local_results(t)[0] for t in shared]
    return [
        np.asarray(value).astype(np.asarray(array).dtype)
        for value, array in zip(values, arrays, strict=True)
    ]


def make_any(strategy: Strategy) -> Callable[[Sequence[bool]], list[bool]]:
    """Returns a function that says which flags are true on any process."""
    if not several_processes(strategy):
        return list

    @tf.function
    def count(flags: Any) -> Any:
        return strategy.run(lambda: total(tf.identity(flags)))

    def anywhere(flags: Sequence[bool]) -> list[bool]:
        counted = count(tf.constant(flags, tf.float32))
        local = strategy.experimental_local_results(counted)[0]
        return [bool(flag) for flag in np.asarray(local) > 0]

    return anywhere


def make_first(strategy: Strategy) -> Callable[[int], int]:
    """Returns a function that gives the number of the first process to all."""
    if not several_processes(strategy):
        return int

    @tf.function
    def of_first(number: Any) -> Any:
        def one() -> Any:
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group, 0)
            return total(tf.where(first, number, 0))

        return strategy.run(one)

    def first(number: int) -> int:
        found = of_first(tf.constant(number, tf.int64))
        return int(strategy.experimental_local_results(found)[0])

    return first


def _reducible(array: Any) -> Any:
    """As a tensor of a dtype that collectives add up."""
    tensor = tf.convert_to_tensor(array)
    return tensor if tensor.dtype.is_floating else tf.cast(tensor, tf.int64)


def _split_cpu(count: int) -> None:
    cpus = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    try:
        tf.config.set_logical_device_configuration(cpus[0], parts)
    except RuntimeError:
        there = len(tf.config.list_logical_devices("CPU"))
        if there < count:
            raise ValueError(
                f"the CPU of this process is {there} device(s) already; it "
                "can be split only before TensorFlow has started. "
                f"Received: replicas={count}"
            ) from None


def _check_cluster(config: str) -> None:
    example = (
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        contents = json.loads(config)
        task, cluster = contents["task"], contents["cluster"]
        cluster[task["type"]][int(task["index"])]
    except (ValueError, KeyError, TypeError, IndexError):
        raise ValueError(
            "strategy=multiworker needs the environment variable TF_CONFIG "
            f"on each machine, as in {example}. "
            f"Received: TF_CONFIG={config or '(not set)'}"
        ) from None
