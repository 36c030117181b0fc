# SPDX-License-Identifier: Apache-2.0
"""Data sets that fit into memory."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.data.batch_order import BatchOrder, share
from keras_bn.data.errors import DataError


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

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.x_train.shape[1:]

    @property
    def train_examples(self) -> int:
        """Number of training examples."""
        return len(self.x_train)

    @property
    def test_examples(self) -> int:
        """Number of test examples."""
        return len(self.x_test)

    def identity(self) -> dict[str, Any]:
        """What tells these data from others; see `identity_of`."""
        digest = hashlib.sha256()
        for x, y in ((self.x_train, self.y_train), (self.x_test, self.y_test)):
            digest.update(y.tobytes())
            digest.update(x[:: len(x) // 1000 + 1].tobytes())
        return identity_of(self, digest)

    def probe(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Inputs and labels for measuring a network: all test examples."""
        return self.x_test, self.y_test

    def train(
        self,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> Any:
        """Batches without end, as a `tf.data.Dataset`.

        Args:
            batch_size: Examples of a whole batch.
            seed: Seed of their order.
            start_step: The step that the first batch is for.
            part: `(i, n)`: the i-th of n nearly equal shares of each batch.
        """
        order = BatchOrder(
            examples=len(self.x_train), batch_size=batch_size, seed=seed
        )
        return _stream(
            self.x_train,
            self.y_train,
            lambda: (
                share(order.rows(step, 1)[0], part)
                for step in itertools.count(start_step)
            ),
        )

    def test(self, *, batch_size: int, part: tuple[int, int] = (0, 1)) -> Any:
        """All test examples once; every part has the same number of batches."""
        rows = np.arange(len(self.x_test), dtype=np.int32)
        return _stream(
            self.x_test,
            self.y_test,
            lambda: (
                share(rows[first : first + batch_size], part)
                for first in range(0, len(rows), batch_size)
            ),
        )


def identity_of(dataset: Any, digest: Any) -> dict[str, Any]:
    """What identifies a data set, wherever its files are.

    Args:
        dataset: The data set.
        digest: A `hashlib` hash of its examples.
    """
    return {
        "name": dataset.name,
        "classes": dataset.classes,
        "train_examples": dataset.train_examples,
        "test_examples": dataset.test_examples,
        "digest": digest.hexdigest()[:16],
    }


def _stream(
    x: NDArray[np.float32],
    y: NDArray[np.int32],
    rows: Callable[[], Iterable[NDArray[np.int32]]],
) -> Any:
    return tf.data.Dataset.from_generator(
        lambda: ((x[r], y[r]) for r in rows()),
        output_signature=(
            tf.TensorSpec((None, *x.shape[1:]), x.dtype),
            tf.TensorSpec((None,), y.dtype),
        ),
    )


def binary_rows(images: NDArray[Any], *, white: float) -> NDArray[np.float32]:
    """Flattens images `[N, H, W]` to rows of 0 and 1 at half of `white`.

    Section 4.1 uses binary images and does not say how they were made.
    """
    rows = images.reshape(len(images), math.prod(images.shape[1:]))
    return (rows > white / 2).astype(np.float32)
