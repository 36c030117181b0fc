# SPDX-License-Identifier: Apache-2.0
"""Schedule + probe + measure -> summaries, as Keras callbacks.

They only look: the model runs in inference mode and no variable, optimizer or
random state is touched, so the weights of a run do not depend on them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from analysis import autodiff, probes, summaries
from analysis.measures import jacobian
from analysis.measures.percentiles import PAPER_PERCENTILES, percentiles
from analysis.schedules import Schedule

HOW_TO_READ = """\
**Percentiles** (custom scalars): the band spans the 15th to the 85th
percentile of what goes into a block's activation, the line is the median, all
over a fixed set of test examples. A band that stays put means that later
layers see a stable distribution (Fig. 1 of the paper).

**Jacobian singular values** (custom scalars): how much a block stretches a
small change of its input, at inference, mean over examples. `s1` is the
largest; `mean_square` is the factor by which squared gradients change on
average. The spectrum of all of them is under *histograms*.

Custom scalars cut outliers off by default: untick *ignore outliers* if a band
looks cut.
"""


class _StepCallback(keras.callbacks.Callback):
    """Counts steps across epochs, resumed runs and steps per execution."""

    def __init__(self, writer: summaries.Writer) -> None:
        super().__init__()
        self._writer = writer
        self._epoch_start = 0
        self.step = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the writer at the step that training starts from."""
        del logs
        self.step = int(self.model.optimizer.iterations)
        self._epoch_start = self.step
        self._writer.open(self.step)
        self.start()

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Learns where in the epoch a resumed run goes on."""
        del logs
        self._epoch_start = self.step - batch

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Counts, and measures if that is scheduled."""
        del logs
        earlier, self.step = self.step, self._epoch_start + batch + 1
        self.steps_done(earlier)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writes everything out."""
        del logs
        self._writer.close()

    def start(self) -> None:
        """Called when training begins, at `self.step`."""

    def steps_done(self, earlier: int) -> None:
        """Called after the steps `earlier + 1 .. self.step`."""


class CurvesCallback(keras.callbacks.Callback):
    """Writes `loss`, `accuracy`, ... of training and test at each epoch's end.

    Args:
        train: Writer for the training curves.
        validation: Writer for the curves whose names start with `val_`, which
            is taken off, so that TensorBoard lays the two over each other.
    """

    def __init__(
        self, train: summaries.Writer, validation: summaries.Writer
    ) -> None:
        super().__init__()
        self._train = train
        self._validation = validation

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the writers at the step that training starts from."""
        del logs
        for writer in (self._train, self._validation):
            writer.open(int(self.model.optimizer.iterations))

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Writes one point of each curve."""
        del epoch
        step = int(self.model.optimizer.iterations)
        for name, value in (logs or {}).items():
            if name.startswith("val_"):
                self._validation.scalar(name[4:], value, step=step)
            else:
                self._train.scalar(name, value, step=step)
        self._train.flush()
        self._validation.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writes everything out."""
        del logs
        self._train.close()
        self._validation.close()


class _MeasureCallback(_StepCallback):
    """Measures at the steps of a schedule.

    Where several steps run at once and a scheduled one lies inside, the
    measure is taken at the end of them and carries that step.
    """

    def __init__(
        self,
        writer: summaries.Writer,
        *,
        schedule: Schedule,
        probe: probes.Probe,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__(writer)
        self.schedule = schedule
        self._probe = probe
        self._names = layers
        self.blocks: list[probes.Block] = []
        self._capture: Any = None

    def start(self) -> None:
        """Finds the blocks; measures the untrained model if scheduled."""
        self.blocks = probes.blocks(self.model, self._names)
        self._capture = autodiff.capture(
            self.model,
            [self.place(block) for block in self.blocks],
            self._probe.inputs,
        )
        self.prepare()
        if self.step == 0 and self.schedule(0):
            self._record()

    def steps_done(self, earlier: int) -> None:
        """Measures if one of the steps was scheduled."""
        if any(self.schedule(s) for s in range(earlier + 1, self.step + 1)):
            self._record()

    def _record(self) -> None:
        captured = self._capture()
        for block in self.blocks:
            self.record(block, captured[self.place(block)])
        self._writer.flush()

    def place(self, block: probes.Block) -> autodiff.Place:
        """The tensor that the measure wants."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Called once the blocks are known."""

    def record(self, block: probes.Block, values: Any) -> None:
        """Measures one block and writes it at `self.step`."""
        raise NotImplementedError


class PercentilesCallback(_MeasureCallback):
    """Percentiles of what goes into each block's activation (Fig. 1(b, c)).

    Writes `percentiles/<layer>/p<q>` over all units of the layer pooled and
    `percentiles/<layer>/unit<i>/p<q>` of one unit. Units are exchangeable
    before training, so any index is a fair draw of "one typical unit".

    Args:
        writer: Where to write.
        schedule: At which steps.
        probe: The examples, usually of the test set.
        layers: Names of the blocks; `None` takes all.
        q: Percentages, the lowest, middle and highest of which the dashboard
            shows.
        unit: Index of the one unit.
    """

    def __init__(
        self,
        writer: summaries.Writer,
        *,
        schedule: Schedule,
        probe: probes.Probe,
        layers: Sequence[str] | None = None,
        q: Sequence[float] = PAPER_PERCENTILES,
        unit: int = 0,
    ) -> None:
        super().__init__(writer, schedule=schedule, probe=probe, layers=layers)
        self._q = tuple(q)
        self._unit = unit

    def place(self, block: probes.Block) -> autodiff.Place:
        """What goes into the activation."""
        return block.drive

    def record(self, block: probes.Block, values: Any) -> None:
        """Writes the percentiles of one block."""
        unit = values[..., self._unit : self._unit + 1]
        for part, of in (((), values), ((f"unit{self._unit}",), unit)):
            for q, value in zip(self._q, percentiles(of, self._q), strict=True):
                self._writer.scalar(
                    self._tag(block, q, *part), value, step=self.step
                )

    def bands(self) -> dict[str, tuple[str, str, str]]:
        """Chart titles and tags for the dashboard, deepest block first."""
        low, middle, high = (
            min(self._q),
            sorted(self._q)[len(self._q) // 2],
            max(self._q),
        )
        lines = (low, middle, high)
        charts = {}
        # TensorBoard shows the margin charts of a category from last to first.
        for number, block in reversed(list(enumerate(self.blocks, 1))):
            for part in ((f"unit{self._unit}",), ()):
                of = part[0] if part else "all units"
                names = ", ".join(map(summaries.percentile_name, lines))
                title = f"{number} {block.name}, {of}: {names}"
                low_tag, middle_tag, high_tag = (
                    self._tag(block, q, *part) for q in lines
                )
                charts[title] = (low_tag, middle_tag, high_tag)
        return charts

    def _tag(self, block: probes.Block, q: float, *part: str) -> str:
        return summaries.tag(
            "percentiles", block.name, *part, summaries.percentile_name(q)
        )


class JacobianCallback(_MeasureCallback):
    """Singular values of each block's Jacobian at inference, by exact SVD.

    The block reaches from the input of its linear layer to its activation.
    Writes `jacobian/<layer>/inference/s1 .. s<k>` and `mean_square`, means
    over the probe's examples, and the histogram `spectrum` of all values.

    Args:
        writer: Where to write.
        schedule: At which steps.
        probe: The examples; some 20 are plenty.
        layers: Names of the blocks; `None` takes all.
        k: How many of the largest values get a curve.
    """

    def __init__(
        self,
        writer: summaries.Writer,
        *,
        schedule: Schedule,
        probe: probes.Probe,
        layers: Sequence[str] | None = None,
        k: int = 5,
    ) -> None:
        super().__init__(writer, schedule=schedule, probe=probe, layers=layers)
        self._k = k
        self._jacobians: dict[str, Any] = {}

    def place(self, block: probes.Block) -> autodiff.Place:
        """What goes into the block."""
        return block.entry

    def prepare(self) -> None:
        """Makes one compiled Jacobian per block."""
        self._jacobians = {
            block.name: autodiff.batch_jacobian(block) for block in self.blocks
        }

    def record(self, block: probes.Block, values: Any) -> None:
        """Writes the singular values of one block."""
        spectra = jacobian.singular_values(self._jacobians[block.name](values))
        statistics = {
            f"s{i}": value
            for i, value in enumerate(spectra.mean(axis=0)[: self._k], 1)
        }
        statistics["mean_square"] = np.square(spectra).mean()
        for name, value in statistics.items():
            self._writer.scalar(self._tag(block, name), value, step=self.step)
        self._writer.histogram(
            self._tag(block, "spectrum"), spectra, step=self.step
        )

    def lines(self) -> dict[str, list[str]]:
        """Chart titles and tags for the dashboard."""
        names = [f"s{i}" for i in range(1, self._k + 1)]
        return {
            f"{number} {block.name}, inference: s1 to s{self._k}": [
                self._tag(block, name) for name in names
            ]
            for number, block in enumerate(self.blocks, 1)
        }

    def _tag(self, block: probes.Block, statistic: str) -> str:
        return summaries.tag("jacobian", block.name, "inference", statistic)


class DashboardCallback(_StepCallback):
    """Writes the page layout, the reading guide and the hyperparameters, once.

    Put it after the callbacks whose charts it arranges.

    Args:
        writer: Where to write the layout: the one of the measures.
        run_writer: Writer of the run's own folder, for the hparams page.
        measures: The measuring callbacks.
        hyperparameters: What to compare runs by.
        run_name: The run's row on the hparams page.
    """

    def __init__(
        self,
        writer: summaries.Writer,
        *,
        run_writer: summaries.Writer,
        measures: Sequence[keras.callbacks.Callback],
        hyperparameters: Mapping[str, Any],
        run_name: str,
    ) -> None:
        super().__init__(writer)
        self._run_writer = run_writer
        self._measures = measures
        self._hyperparameters = hyperparameters
        self._run_name = run_name

    def start(self) -> None:
        """Writes, unless the run is a resumed one."""
        if self.step:
            return
        bands: dict[str, tuple[str, str, str]] = {}
        lines: dict[str, list[str]] = {}
        for measure in self._measures:
            if isinstance(measure, PercentilesCallback):
                bands.update(measure.bands())
            if isinstance(measure, JacobianCallback):
                lines.update(measure.lines())
        if bands or lines:
            self._writer.layout(
                summaries.layout(percentiles=bands, multiline=lines)
            )
            self._writer.text("how_to_read", HOW_TO_READ)
        self._run_writer.open(0)
        self._run_writer.hyperparameters(
            self._hyperparameters, trial=self._run_name
        )
        self._run_writer.close()


def for_run(
    folder: Path,
    *,
    measures: Sequence[str],
    schedule: Schedule,
    test_inputs: Any,
    hyperparameters: Mapping[str, Any],
    seed: int = 0,
) -> list[keras.callbacks.Callback]:
    """The callbacks of one run: curves, the chosen measures, the dashboard.

    Args:
        folder: The run's folder.
        measures: Any of `percentiles` (over 1,000 test examples) and
            `jacobian` (over 20 of them).
        schedule: Steps at which the measures look.
        test_inputs: Inputs of the test set.
        hyperparameters: What to compare runs by.
        seed: Seed of the choice of examples.

    Returns:
        Callbacks that write into `train`, `validation` and `analysis`.
    """
    writer = summaries.Writer(folder / "analysis")
    chosen: list[keras.callbacks.Callback] = []
    if "percentiles" in measures:
        chosen.append(
            PercentilesCallback(
                writer,
                schedule=schedule,
                probe=probes.Probe.sample(test_inputs, size=1000, seed=seed),
            )
        )
    if "jacobian" in measures:
        chosen.append(
            JacobianCallback(
                writer,
                schedule=schedule,
                probe=probes.Probe.sample(test_inputs, size=20, seed=seed),
            )
        )
    return [
        CurvesCallback(
            summaries.Writer(folder / "train"),
            summaries.Writer(folder / "validation"),
        ),
        *chosen,
        DashboardCallback(
            writer,
            run_writer=summaries.Writer(folder),
            measures=chosen,
            hyperparameters=hyperparameters,
            run_name=folder.name,
        ),
    ]
