# SPDX-License-Identifier: Apache-2.0
"""A run's whole state on disk, by TensorFlow's checkpoints.

TensorFlow writes to temporary names, renames, rotates, and checks a CRC of
every tensor when it reads. A checkpoint that is found damaged costs the steps
since the one before it, not the run.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_bn.errors import ExpectedError

_LOG = logging.getLogger(__name__)


class CheckpointError(ExpectedError):
    """Checkpoints that cannot be read, do not fit or cannot be written."""


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
    """Saves and restores a model, its optimizer, and a dictionary.

    Args:
        folder: Where the checkpoints lie; made when the first is saved.
        model: A compiled model whose optimizer is built.
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
        self._state = state
        self._checkpoint = tf.train.Checkpoint(
            variables=[variable.value for variable in variables(model)],
            state=_JsonState(state),
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(folder), max_to_keep=keep
        )

    @property
    def newest(self) -> int:
        """The step of the newest checkpoint, -1 if there is none."""
        return _step_of(self._manager.latest_checkpoint)

    def save(self, step: int) -> None:
        """Writes the state after `step` steps, unless it is there already.

        Raises:
            CheckpointError: If the disk does not take it; the checkpoints
                before it stay.
        """
        if self.newest == step:
            return
        try:
            self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be written: "
                f"{_first_line(error)}"
            ) from None

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read.

        Returns:
            Its step, 0 if there is none at all. Damaged ones are logged.

        Raises:
            CheckpointError: If there are some and none can be read.
        """
        return self._restore(self._manager.checkpoints)

    def fall_back(self) -> int:
        """Restores the one before the newest, and makes it the newest again.

        Returns:
            Its step; that of the newest, not restored, if it is the only one.

        Raises:
            CheckpointError: If it cannot be read, or not be written again.
        """
        *earlier, _ = self._manager.checkpoints
        if not earlier:
            return self.newest
        step = self._restore(earlier)
        self.save(step)
        return step

    def _restore(self, paths: Sequence[str]) -> int:
        """Restores the last one that can be read."""
        reasons = []
        for path in reversed(paths):
            try:
                status = self._checkpoint.restore(path)
                status.assert_existing_objects_matched()
            except (
                tf.errors.OpError,
                AssertionError,
                ValueError,
                TypeError,
                AttributeError,
                IndexError,
            ) as error:
                reasons.append(
                    f"checkpoint {path} cannot be restored: "
                    f"{_first_line(error)}"
                )
                continue
            for reason in reasons:
                _LOG.warning("%s; going on from %s", reason, path)
            return _step_of(path)
        if reasons:
            raise CheckpointError("; ".join(reasons))
        return 0


def variables(model: keras.Model) -> list[Any]:
    """All that training changes: weights, statistics, seeds, optimizer."""
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [v for v in model.variables if id(v) not in metrics]
    return [*own, *model.optimizer.variables]


def _step_of(path: str | None) -> int:
    return -1 if path is None else int(path.rsplit("-", 1)[1])


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]
