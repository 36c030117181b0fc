# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows besides the curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis import layout, summaries, tags
from analysis.callbacks.base import MeasureCallback
from analysis.callbacks.steps import StepCallback


class DashboardCallback(StepCallback):
    """Writes the page layout, the reading guide and the hyperparameters, once.

    Put it after the callbacks whose charts it arranges.

    Args:
        writer: Writer of the layout, the same as that of the measures.
        run_writer: Writer of the run's own folder, for the hparams page.
        measures: The measuring callbacks.
        hyperparameters: The values to compare runs by.
        run_name: The run's row on the hparams page.
        left_out: Names of the requested measures that are missing or
            incomplete because the probe has no targets.
    """

    def __init__(
        self,
        writer: summaries.Writer,
        *,
        run_writer: summaries.Writer,
        measures: Sequence[MeasureCallback],
        hyperparameters: Mapping[str, Any],
        run_name: str,
        left_out: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._writer = writer
        self._run_writer = run_writer
        self._measures = measures
        self._hyperparameters = hyperparameters
        self._run_name = run_name
        self._left_out = left_out

    def start(self) -> None:
        """Writes all of it, unless a resumed run already has it."""
        if self.step and not self._run_writer.is_new():
            return
        if self._measures:
            self._writer.open(self.step, goes_on=self.goes_on)
            page = layout.layout(m.category() for m in self._measures)
            self._writer.layout(page)
            for measure in self._measures:
                name = tags.tag("how_to_read", measure.measure)
                self._writer.text(name, measure.how_to_read)
            for without in self._left_out:
                name = tags.tag("missing", without, "network")
                self._writer.text(name, "the probe has no targets")
            self._writer.flush()
        self._run_writer.open(self.step, goes_on=self.goes_on)
        self._run_writer.hyperparameters(
            self._hyperparameters, trial=self._run_name
        )
        self._run_writer.close()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writes everything out."""
        super().on_train_end(logs)
        self._writer.close()
