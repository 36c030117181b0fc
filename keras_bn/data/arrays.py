# SPDX-License-Identifier: Apache-2.0
"""Data sets that fit into memory, and the order their examples come in."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.arguments import one_of
from keras_bn.errors import ExpectedError


class DataError(ExpectedError):
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
        """Inputs and labels to look at a network with: all test examples."""
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
        """All test examples once; as many batches for every part."""
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
    """What tells a data set from others, wherever its files lie.

    Args:
        dataset: The data set.
        digest: A hash of what its examples are, of `hashlib`.
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


def share(rows: NDArray[np.int32], part: tuple[int, int]) -> NDArray[np.int32]:
    """The i-th of n nearly equal shares of rows, in their order."""
    index, parts = part
    return np.array_split(rows, parts)[index]


def require_batch_fits(batch_size: int, examples: int) -> None:
    """Raises `ValueError` if a batch is larger than the training part."""
    if batch_size > examples:
        raise ValueError(
            f"batch_size must be <= {examples}, the number of training "
            f"examples. Received: batch_size={batch_size}"
        )


#: How the examples of an epoch may be mixed.
SHUFFLES = ("all", "within", "shards")
#: Examples of a shard where the files make none.
SHARD_SIZE = 1024


class BatchOrder:
    """Which examples step `s` sees: a pure function of seed and step.

    Each epoch has its own order, drawn from its own seed; what does not fill a
    batch is left out of that epoch. A run that stops and resumes goes on with
    exactly the batches it would have seen.

    Args:
        examples: Number of training examples.
        batch_size: Examples of a step.
        seed: Of all orders.
        shuffle: `"all"` mixes all examples; `"within"` takes shards in random
            order and mixes within each; `"shards"` leaves the order within
            shards as it is.
        shard_sizes: Numbers of examples that lie together. Without any, the
            examples are laid out at random, the same for every seed, in
            shards of `SHARD_SIZE`.

    Raises:
        ValueError: If one batch is larger than the data set, or `shuffle` is
            none of these.
    """

    def __init__(
        self,
        *,
        examples: int,
        batch_size: int,
        seed: int,
        shuffle: str = "all",
        shard_sizes: Sequence[int] = (),
    ) -> None:
        require_batch_fits(batch_size, examples)
        self.batch_size = batch_size
        self.steps_per_epoch = examples // batch_size
        self._examples = examples
        self._seed = seed
        self._shuffle = one_of("shuffle", shuffle, SHUFFLES)
        # As long as the data, so made only where they are used.
        self._shards = (
            [] if shuffle == "all" else _shards(examples, shard_sizes)
        )
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
            self._permutation = self._order(epoch).astype(np.int32)
            self._epoch = epoch
        first = position * self.batch_size
        return self._permutation[first : first + self.batch_size]

    def _order(self, epoch: int) -> NDArray[Any]:
        rng = np.random.default_rng([self._seed, epoch])
        if self._shuffle == "all":
            return rng.permutation(self._examples)
        shards = [self._shards[i] for i in rng.permutation(len(self._shards))]
        if self._shuffle == "within":
            shards = [rng.permutation(shard) for shard in shards]
        return np.concatenate(shards)


def _shards(examples: int, sizes: Sequence[int]) -> list[NDArray[Any]]:
    """The numbers of the examples of each shard."""
    if sizes:
        return np.split(np.arange(examples), np.cumsum(sizes)[:-1])
    laid_out = np.random.default_rng(0).permutation(examples)
    return np.split(laid_out, range(SHARD_SIZE, examples, SHARD_SIZE))
