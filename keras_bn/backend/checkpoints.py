# SPDX-License-Identifier: Apache-2.0
"""A run's whole state on disk, by TensorFlow's checkpoints.

    ckpt-<step>.index, ckpt-<step>.data-00000-of-00001

TensorFlow writes under temporary names, renames the files, the index last, and
checks a CRC of every tensor when reading. A damaged checkpoint costs the steps
since the previous one, not the run. Checkpoints are found by their file names,
so there is no list of them that could be damaged.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_bn.errors import ExpectedError, reason

_LOG = logging.getLogger(__name__)

#: How many checkpoints stay.
KEPT = 2


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
        folder: Folder of the checkpoints; created when the first is saved.
        model: A compiled model whose optimizer is built.
        state: JSON-able dictionary, saved as it is at that moment and changed
            in place by `restore`.
    """

    def __init__(
        self,
        folder: Path,
        model: keras.Model,
        state: dict[str, Any],
    ) -> None:
        self._folder = folder
        #: Step of the checkpoint last written or restored; -1 before.
        self._current = -1
        self._checkpoint = tf.train.Checkpoint(
            variables=[variable.value for variable in variables(model)],
            state=_JsonState(state),
        )

    @property
    def newest(self) -> int:
        """The step of the newest checkpoint, -1 if there is none."""
        return max(self._steps(), default=-1)

    def save(self, step: int, *, again: bool = False) -> None:
        """Writes the state after `step` steps, unless it is there already.

        Args:
            step: Number of steps done.
            again: Whether to write the state even if it is there.

        Raises:
            CheckpointError: If the state cannot be written; earlier
                checkpoints stay.
        """
        if self._current == step and not again:
            return
        try:
            self._checkpoint.write(self._path(step))
            self._rotate(step)
        except (tf.errors.OpError, OSError) as error:
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be written: "
                f"{reason(error)}"
            ) from None
        self._current = step

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read.

        Returns:
            Its step, 0 if there is none at all. Damaged ones are logged.

        Raises:
            CheckpointError: If there are some and none can be read.
        """
        return self._restore(self._steps())

    def fall_back(self) -> int:
        """Restores the checkpoint before the newest and deletes the newest.

        Returns:
            The step restored; if the newest is the only one, its step,
            without restoring it.

        Raises:
            CheckpointError: If no earlier checkpoint can be read, or the
                newest cannot be deleted.
        """
        *earlier, newest = self._steps()
        if not earlier:
            return newest
        step = self._restore(earlier)
        try:
            self._rotate(step)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of step {newest} cannot be deleted: {error}"
            ) from None
        return step

    def _path(self, step: int) -> str:
        return str(self._folder / f"ckpt-{step}")

    def _steps(self) -> list[int]:
        """The steps of all checkpoints there are, in order."""
        names = (path.stem for path in self._folder.glob("ckpt-*.index"))
        steps = (name.removeprefix("ckpt-") for name in names)
        return sorted(int(step) for step in steps if step.isdecimal())

    def _rotate(self, step: int) -> None:
        """Deletes all checkpoints except the newest `KEPT` up to a step.

        Later ones belong to an abandoned course of the run.
        """
        steps = self._steps()
        kept = [each for each in steps if each <= step][-KEPT:]
        for each in set(steps) - set(kept):
            for path in self._folder.glob(f"ckpt-{each}.*"):
                path.unlink()

    def _restore(self, steps: Sequence[int]) -> int:
        """Restores the last one that can be read."""
        reasons = []
        for step in reversed(steps):
            path = self._path(step)
            try:
                status = self._checkpoint.read(path)
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
                    f"checkpoint {path} cannot be restored: {reason(error)}"
                )
                continue
            for why in reasons:
                _LOG.warning("%s; going on from %s", why, path)
            self._current = step
            return step
        if reasons:
            raise CheckpointError("; ".join(reasons))
        return 0


def variables(model: keras.Model) -> list[Any]:
    """All that training changes: weights, statistics, seeds, optimizer."""
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [v for v in model.variables if id(v) not in metrics]
    return [*own, *model.optimizer.variables]
