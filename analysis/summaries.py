# SPDX-License-Identifier: Apache-2.0
"""The only writer of event files.

Events are written with TensorBoard's own record writer, since other callbacks
can switch off TensorFlow's writers.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
from tensorboard.plugins.custom_scalar import (
    layout_pb2,
    summary as custom_scalar,
)
from tensorboard.plugins.histogram import summary_v2 as histogram
from tensorboard.plugins.hparams import (
    api_pb2,
    metadata as hparams_metadata,
    plugin_data_pb2,
    summary_v2 as hparams,
)
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import summary_v2 as text

from analysis import event_file

#: How many hyperparameters TensorBoard's page shows at first.
_TICKED = 5
_SCALAR = scalar_metadata.create_summary_metadata(
    display_name=None, description=None
)


class Writer:
    """Writes the events of one folder.

    A full disk does not end a run: see `analysis.event_file`.

    Args:
        folder: The folder; created when the writer is opened.
        overwrite: Whether a run that begins deletes what an earlier one has
            left there.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._file: event_file.EventFile | None = None
        self._event = event_pb2.Event()

    def is_new(self) -> bool:
        """Whether no run has written into the folder."""
        return not event_file.own_files(self.folder)

    def open(self, step: int, *, goes_on: bool = False) -> None:
        """Starts writing after `step` steps; a second call does nothing.

        First removes what an interrupted run has written after `step`, so that
        its curves continue without duplicates. At step 0 it removes
        everything, since a run that begins writes its initial events again.
        Files that other programs have written stay as they are.

        Args:
            step: Steps made.
            goes_on: Whether what was written after `step` is of the same run.

        Raises:
            OSError: If the folder cannot be created or its files cannot be
                rewritten.
            ValueError: If something of another run would be removed, and
                `overwrite` is not given.
        """
        if self._file is None:
            if not self._overwrite and not goes_on:
                self._check_is_new(step)
            self.folder.mkdir(parents=True, exist_ok=True)
            event_file.drop_events_after(self.folder, step or -1)
            self._file = event_file.EventFile(self.folder)

    def _check_is_new(self, step: int) -> None:
        """Raises if an earlier run wrote after `step`, or at all if it is 0."""
        if self.is_new():
            return
        steps = (at for _, at, _ in event_file.scalars(self.folder))
        if not step or max(steps, default=0) > step:
            raise ValueError(
                f"{self.folder} holds the curves of an earlier run. Choose "
                "another folder, or overwrite=True to delete them"
            )

    def close(self) -> None:
        """Writes everything out and ends; a second call does nothing."""
        if self._file is not None:
            self._end_event(self._file)
            self._file.close()
            self._file = None

    def flush(self) -> None:
        """Writes everything out."""
        if self._file is not None:
            self._end_event(self._file)
            self._file.flush()

    def scalars(self) -> Iterator[tuple[str, int, float]]:
        """Tag, step and value of every point in the folder."""
        return event_file.scalars(self.folder)

    def scalar(self, name: str, value: float, *, step: int) -> None:
        """One point of a curve."""
        summary = summary_pb2.Summary()
        summary.value.add(
            tag=name,
            tensor=tensor_pb2.TensorProto(
                dtype="DT_FLOAT", float_val=[float(value)], tensor_shape={}
            ),
            metadata=_SCALAR,
        )
        self._add(summary, step)

    def histogram(self, name: str, values: ArrayLike, *, step: int) -> None:
        """The distribution of all values of an array, in 30 buckets."""
        flat = np.asarray(values, np.float64).ravel()
        self._add(histogram.histogram_pb(name, flat), step)

    def image(self, name: str, png: bytes, *, step: int) -> None:
        """A picture, given as the bytes of a PNG file."""
        width, height = struct.unpack(">II", png[16:24])
        parts = [str(width).encode(), str(height).encode(), png]
        tensor = tensor_pb2.TensorProto(
            dtype="DT_STRING",
            string_val=parts,
        )
        tensor.tensor_shape.dim.add(size=len(parts))
        metadata = image_metadata.create_summary_metadata(
            display_name=None, description="", converted_to_tensor=True
        )
        summary = summary_pb2.Summary()
        summary.value.add(tag=name, tensor=tensor, metadata=metadata)
        self._add(summary, step)

    def text(self, name: str, markdown: str, *, step: int = 0) -> None:
        """A card with explanations."""
        self._add(text.text_pb(name, markdown), step)

    def layout(self, layout: layout_pb2.Layout) -> None:
        """The arrangement of the custom-scalars page."""
        self._add(custom_scalar.pb(layout), 0)

    def hyperparameters(self, values: Mapping[str, Any], *, trial: str) -> None:
        """The run's row on the hparams page, with its test accuracy.

        Args:
            values: The page opens with the first five, sorted by name; the
                others can be ticked.
            trial: Name of the run.
        """
        shown = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in values.items()
        }
        metrics = [
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(group="validation", tag=metric),
                display_name=name,
            )
            for metric, name in (
                ("accuracy", "test accuracy"),
                ("loss", "test loss"),
            )
        ]
        page = api_pb2.Experiment(
            # TensorBoard sorts by name, but shows those with `differs` first.
            hparam_infos=[
                api_pb2.HParamInfo(name=name, differs=place < _TICKED)
                for place, name in enumerate(shown)
            ],
            metric_infos=metrics,
        )
        summary = summary_pb2.Summary()
        summary.value.add(
            tag=hparams_metadata.EXPERIMENT_TAG,
            tensor=hparams_metadata.NULL_TENSOR,
            metadata=hparams_metadata.create_summary_metadata(
                plugin_data_pb2.HParamsPluginData(experiment=page)
            ),
        )
        self._add(summary, 0)
        self._add(hparams.hparams_pb(shown, trial_id=trial), 0)

    def _add(self, summary: Any, step: int) -> None:
        if self._file is None:
            raise RuntimeError(f"the writer of {self.folder} is not open")
        if step != self._event.step:
            self._end_event(self._file)
            self._event.step = step
        # Some plugins return TensorFlow's class for the same message.
        self._event.summary.MergeFromString(summary.SerializeToString())

    def _end_event(self, file: event_file.EventFile) -> None:
        if self._event.summary.value:
            file.add(self._event)
        self._event.Clear()
