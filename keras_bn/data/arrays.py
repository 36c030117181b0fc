# SPDX-License-Identifier: Apache-2.0
"""Data sets that fit into memory, and the order their examples come in."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DataError(Exception):
    """Data that are missing, damaged or not what they should be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayDataset:
    """Training and test examples as arrays.

    Attributes:
        name: Name of the data set.
        x_train: Inputs `[N, features]`, float32.
        y_train: Labels `[N]`, int32, from 0.
        x_test: Inputs `[M, features]`, float32.
        y_test: Labels `[M]`, int32.
        classes: Number of different labels.
    """

    name: str
    x_train: NDArray[np.float32]
    y_train: NDArray[np.int32]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int32]
    classes: int

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if len(x) != len(y) or not len(x):
                raise DataError(
                    f"{self.name}: the {part} part must have as many labels "
                    f"as examples, and some. Received: {len(x)} examples, "
                    f"{len(y)} labels"
                )


def binary_rows(images: NDArray[Any], *, white: float) -> NDArray[np.float32]:
    """Flattens images `[N, H, W]` to rows of 0 and 1 at half of `white`.

    Section 4.1 uses binary images and does not say how they were made.
    """
    rows = images.reshape(len(images), math.prod(images.shape[1:]))
    return (rows > white / 2).astype(np.float32)


class BatchOrder:
    """Which examples step `s` sees: a pure function of seed and step.

    Each epoch is one permutation of all examples, drawn from its own seed;
    what does not fill a batch is left out of that epoch. A run that stops and
    resumes goes on with exactly the batches it would have seen.

    Raises:
        ValueError: If one batch is larger than the data set.
    """

    def __init__(self, *, examples: int, batch_size: int, seed: int) -> None:
        if batch_size > examples:
            raise ValueError(
                f"batch_size must be <= {examples}, the number of training "
                f"examples. Received: batch_size={batch_size}"
            )
        self.batch_size = batch_size
        self.steps_per_epoch = examples // batch_size
        self._examples = examples
        self._seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, np.int32)

    def rows(self, start: int, count: int) -> NDArray[np.int32]:
        """Indices `[count, batch_size]` of steps `start .. start+count-1`."""
        return np.stack(
            [self._row(step) for step in range(start, start + count)]
        )

    def _row(self, step: int) -> NDArray[np.int32]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._permutation = rng.permutation(self._examples).astype(np.int32)
            self._epoch = epoch
        first = position * self.batch_size
        return self._permutation[first : first + self.batch_size]
