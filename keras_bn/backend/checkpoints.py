# SPDX-License-Identifier: Apache-2.0
"""A run's whole state on disk, by TensorFlow's checkpoints.

TensorFlow writes to temporary names, renames, rotates, and checks a CRC of
every tensor when it reads.
"""

import json
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf


class CheckpointError(Exception):
    """A checkpoint that cannot be read or does not fit the model."""


class _JsonState(tf.train.experimental.PythonState):
    """A JSON-able dictionary inside a checkpoint."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self._state = state

    def serialize(self) -> str:
        return json.dumps(self._state)

    def deserialize(self, string_value: str) -> None:
        self._state.clear()
        self._state.update(json.loads(string_value))


class Checkpoints:
    """Saves and restores a model, its optimizer and metrics, and a dictionary.

    Args:
        folder: Where the checkpoints lie; made when the first is saved.
        model: A compiled model whose optimizer and metrics are built.
        state: JSON-able dictionary, saved as it is at that moment and changed
            in place by `restore`.
        keep: How many checkpoints stay.
    """

    def __init__(
        self,
        folder: Path,
        model: keras.Model,
        state: dict[str, Any],
        *,
        keep: int = 2,
    ) -> None:
        variables = [
            *model.variables,
            *model.optimizer.variables,
            *model.metrics_variables,
        ]
        self._checkpoint = tf.train.Checkpoint(
            variables=[variable.value for variable in variables],
            state=_JsonState(state),
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(folder), max_to_keep=keep
        )

    def save(self, step: int) -> None:
        """Writes the state after `step` steps, unless it is there already."""
        if self._step_of(self._manager.latest_checkpoint) != step:
            self._manager.save(checkpoint_number=step)

    def restore(self) -> int:
        """Restores the newest checkpoint; returns its step, 0 if there is none.

        Raises:
            CheckpointError: If it is damaged or of another model.
        """
        newest = self._manager.latest_checkpoint
        if newest is None:
            return 0
        try:
            self._checkpoint.restore(newest).assert_existing_objects_matched()
        except (tf.errors.OpError, AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"checkpoint {newest} cannot be restored: {reason}"
            ) from None
        return self._step_of(newest)

    @staticmethod
    def _step_of(path: str | None) -> int:
        return -1 if path is None else int(path.rsplit("-", 1)[1])
