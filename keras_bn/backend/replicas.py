# SPDX-License-Identifier: Apache-2.0
"""Sums over a tf.distribute strategy's replicas, called within a replica."""

from typing import Any

import tensorflow as tf

Tensor = Any  # tf.Tensor is untyped for mypy.


def are_several() -> bool:
    """Whether this is one of several replicas."""
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


def total(tensor: Tensor) -> Tensor:
    """The sum of the tensor over all replicas."""
    if not are_several():
        return tensor
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def totals(*tensors: Tensor) -> list[Tensor]:
    """The sums of tensors of one dtype, in one collective."""
    packed = total(tf.concat([tf.reshape(t, [-1]) for t in tensors], 0))
    parts = tf.split(packed, [tf.size(t) for t in tensors])
    return [
        tf.reshape(part, tf.shape(t))
        for part, t in zip(parts, tensors, strict=True)
    ]


def mean_where(usable: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the replicas that have a value, and where any has one.

    Args:
        usable: Boolean: where this replica has a value.
        value: This replica's values, of the same shape.
    """
    if not are_several():
        return value, usable
    values = tf.where(usable, value, tf.zeros_like(value))
    total_value, number = totals(values, tf.cast(usable, value.dtype))
    return total_value / tf.maximum(number, 1.0), number > 0.0
