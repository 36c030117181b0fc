# SPDX-License-Identifier: Apache-2.0
"""A fixed batch of examples to look at."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Probe:
    """Examples that a measure looks at, the same ones every time.

    Attributes:
        inputs: `[N, ...]`, or several such in the structure that the model
            takes.
        targets: Likewise, the targets of training; `None` if no measure needs
            the loss.

    Raises:
        ValueError: If there are no examples, or inputs and targets differ in
            their number.
    """

    inputs: Any
    targets: Any = None

    def __post_init__(self) -> None:
        shapes = self._shapes()
        counts = {shape[0] for shape in shapes}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(
                "a probe needs at least one example, and as many inputs as "
                "targets. Received: arrays of shape "
                + ", ".join(map(str, shapes))
            )

    def _shapes(self) -> list[tuple[int, ...]]:
        arrays = keras.tree.flatten((self.inputs, self.targets))
        return [shape for x in arrays if (shape := np.shape(x))]

    @classmethod
    def sample(
        cls, inputs: Any, targets: Any = None, *, size: int, seed: int = 0
    ) -> "Probe":
        """At most `size` examples, drawn without replacement, in their order.

        Args:
            inputs: `[N, ...]`, or several such in any structure.
            targets: Likewise, or `None`.
            size: How many.
            seed: Of the choice.

        Raises:
            ValueError: If there are no examples, inputs and targets differ in
                their number, or `size` is less than 1.
        """
        count = cls(inputs, targets)._shapes()[0][0]
        if size < 1:
            raise ValueError(
                f"a probe needs at least one example. Received: size={size}"
            )
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(count, min(size, count), replace=False))

        def take(x: Any) -> Any:
            return None if x is None else np.asarray(x)[chosen]

        return cls(*keras.tree.map_structure(take, (inputs, targets)))

    def part(self, size: int, *, seed: int = 0) -> "Probe":
        """At most `size` of the examples, as `sample` draws them."""
        return Probe.sample(self.inputs, self.targets, size=size, seed=seed)

    @classmethod
    def first(cls, batches: Iterable[Any], *, size: int) -> "Probe":
        """The first `size` examples of a data set.

        Reading a data set that shuffles advances its random state, so pass one
        that training does not read.

        Args:
            batches: Yields inputs, or `(inputs, targets)`, as
                `tf.data.Dataset` and `keras.utils.PyDataset` do.
            size: How many; fewer if the data set has fewer.

        Raises:
            ValueError: If there are none.
        """
        parts, count = [], 0
        for batch in batches:
            inputs, targets, *_ = (
                (*batch, None) if isinstance(batch, tuple) else (batch, None)
            )
            parts.append((inputs, targets))
            count += len(keras.tree.flatten(inputs)[0])
            if count >= size:
                break
        if not parts:
            raise ValueError(
                "a probe needs at least one example. Received: an empty data "
                "set"
            )

        def join(*arrays: Any) -> Any:
            if arrays[0] is None:
                return None
            whole = map(keras.ops.convert_to_numpy, arrays)
            return np.concatenate(list(whole))[:size]

        return cls(*keras.tree.map_structure(join, *parts))


def as_probe(probe: Any, *, size: int, seed: int = 0) -> Probe:
    """Converts a callback's `probe=` to a `Probe`.

    Args:
        probe: A `Probe`, which is taken as it is; inputs; a tuple of inputs
            and targets; or a data set that yields either.
        size: The most examples to take of anything but a `Probe`.
        seed: Seed of the choice among arrays.

    Raises:
        ValueError: If it is none of these, or there are no examples.
    """
    if isinstance(probe, Probe):
        return probe
    if isinstance(probe, tuple) and len(probe) in (1, 2):
        return Probe.sample(*probe, size=size, seed=seed)
    if isinstance(probe, list | dict) or hasattr(probe, "__array__"):
        return Probe.sample(probe, size=size, seed=seed)
    is_tuple = isinstance(probe, tuple)
    if is_tuple or isinstance(probe, str) or not isinstance(probe, Iterable):
        received = f"a tuple of {len(probe)}" if is_tuple else f"probe={probe}"
        raise ValueError(
            "probe must be a Probe, inputs, (inputs, targets) or a data set "
            f"that yields either. Received: {received}"
        )
    return Probe.first(probe, size=size)
