# SPDX-License-Identifier: Apache-2.0
"""Loss and metrics of training and test."""

from typing import Any

import numpy as np

from analysis import summaries
from analysis.callbacks.steps import StepCallback


class CurvesCallback(StepCallback):
    """Writes `loss`, `accuracy`, ... of training and test at each epoch's end.

    Args:
        train: Writer for the training curves.
        validation: Writer for the curves whose names start with `val_`. The
            prefix is removed, so that TensorBoard overlays the two. A metric
            with several values has a curve for each: `f1_score/0`.
    """

    def __init__(
        self, train: summaries.Writer, validation: summaries.Writer
    ) -> None:
        super().__init__()
        self._train = train
        self._validation = validation

    def start(self) -> None:
        """Opens the writers at the step that training starts from."""
        self._train.open(self.step, goes_on=self.goes_on)
        self._validation.open(self.step, goes_on=self.goes_on)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Writes one point of each curve."""
        del epoch
        for name, values in (logs or {}).items():
            writer = self._train
            if name.startswith("val_"):
                writer, name = self._validation, name[4:]
            # Some metrics have a value for each class.
            for index, value in np.ndenumerate(values):
                tag = "/".join([name, *map(str, index)])
                writer.scalar(tag, float(value), step=self.step)
        self._train.flush()
        self._validation.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writes everything out."""
        super().on_train_end(logs)
        self._train.close()
        self._validation.close()
