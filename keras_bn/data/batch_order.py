# SPDX-License-Identifier: Apache-2.0
"""The order that examples come in: a function of seed and step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bn.arguments import one_of


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
#: Examples of a shard if the data have no shards of their own.
SHARD_SIZE = 1024


class BatchOrder:
    """Which examples step `s` sees: a pure function of seed and step.

    Each epoch has its own order, drawn from its own seed; examples that do not
    fill a batch are skipped in that epoch. A resumed run continues with exactly
    the batches that it would have seen.

    Args:
        examples: Number of training examples.
        batch_size: Examples of a step.
        seed: Seed of all orders.
        shuffle: `"all"` mixes all examples; `"within"` takes shards in random
            order and mixes within each; `"shards"` leaves the order within
            shards as it is.
        shard_sizes: Number of examples in each shard, in order. If empty,
            examples are assigned at random, in the same way for every seed,
            to shards of `SHARD_SIZE`.

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
    """The indices of each shard's examples."""
    if sizes:
        return np.split(np.arange(examples), np.cumsum(sizes)[:-1])
    laid_out = np.random.default_rng(0).permutation(examples)
    return np.split(laid_out, range(SHARD_SIZE, examples, SHARD_SIZE))
