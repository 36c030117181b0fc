# SPDX-License-Identifier: Apache-2.0
"""The only writer of event files; owner of the tags and of the dashboard.

A tag is `<measure>/<layer>/<statistic>`, with whatever the measure depends on
(mode, unit) between layer and statistic:

    percentiles/<layer>/p15                 all units of the layer pooled
    percentiles/<layer>/unit<i>/p15         one unit
    jacobian/<layer>/inference/s1 ... s<k>  mean over the probe's examples
    jacobian/<layer>/inference/mean_square  mean of s^2, likewise
    jacobian/<layer>/inference/spectrum     histogram of all of them
    loss, accuracy                          in train/ and validation/

Events are written with TensorBoard's own writer: TensorFlow's can be switched
off by other callbacks.
"""

import contextlib
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.histogram import summary_v2 as histogram
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import summary_v2 as scalar
from tensorboard.plugins.text import summary_v2 as text
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter


def tag(measure: str, layer: str, *rest: str) -> str:
    """The tag of one curve; slashes in a layer's name become underscores."""
    return "/".join([measure, layer.replace("/", "_"), *rest])


def percentile_name(q: float) -> str:
    """`p15` for 15, `p2.5` for 2.5."""
    return f"p{q:g}"


class Writer:
    """Writes the events of one folder.

    Args:
        folder: The folder; made when the writer is opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: EventFileWriter | None = None

    def open(self, step: int) -> None:
        """Starts writing after `step` steps; a second call does nothing.

        What a run that was cut off has written past `step` is taken out
        first, so that its curves go on with nothing doubled.
        """
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            _drop_events_after(self._folder, step)
            self._writer = EventFileWriter(str(self._folder))

    def close(self) -> None:
        """Writes everything out and ends; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def flush(self) -> None:
        """Writes everything out."""
        if self._writer is not None:
            self._writer.flush()

    def scalar(self, name: str, value: float, *, step: int) -> None:
        """One point of a curve."""
        self._add(scalar.scalar_pb(name, float(value)), step)

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

    def text(self, name: str, markdown: str) -> None:
        """A card with explanations."""
        self._add(text.text_pb(name, markdown), 0)

    def layout(self, layout: layout_pb2.Layout) -> None:
        """The arrangement of the custom-scalars page."""
        self._add(custom_scalar.pb(layout), 0)

    def hyperparameters(self, values: Mapping[str, Any], *, trial: str) -> None:
        """The run's row on the hparams page, with its test accuracy."""
        shown = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in values.items()
        }
        columns = [hparams_api.HParam(name) for name in shown]
        metrics = [
            hparams_api.Metric(metric, group="validation", display_name=name)
            for metric, name in (
                ("accuracy", "test accuracy"),
                ("loss", "test loss"),
            )
        ]
        self._add(hparams.hparams_config_pb(columns, metrics), 0)
        self._add(hparams.hparams_pb(shown, trial_id=trial), 0)

    def _add(self, summary: Any, step: int) -> None:
        if self._writer is None:
            raise RuntimeError(f"the writer of {self._folder} is not open")
        # Some plugins give TensorFlow's class of the same message.
        own = summary_pb2.Summary.FromString(summary.SerializeToString())
        event = event_pb2.Event(step=step, summary=own)
        event.wall_time = time.time()
        self._writer.add_event(event)


def layout(
    *,
    percentiles: Mapping[str, tuple[str, str, str]],
    multiline: Mapping[str, Sequence[str]],
) -> layout_pb2.Layout:
    """The custom-scalars page.

    Args:
        percentiles: Per chart title, the tags of the lower, middle and upper
            line of a band.
        multiline: Per chart title, the tags of its lines.

    Returns:
        A layout of two categories, without those that would be empty.
    """
    bands = [
        layout_pb2.Chart(
            title=title,
            margin=layout_pb2.MarginChartContent(
                series=[
                    layout_pb2.MarginChartContent.Series(
                        value=middle, lower=lower, upper=upper
                    )
                ]
            ),
        )
        for title, (lower, middle, upper) in percentiles.items()
    ]
    lines = [
        layout_pb2.Chart(
            title=title,
            # A tag is matched as a regular expression from its start.
            multiline=layout_pb2.MultilineChartContent(
                tag=[f"{re.escape(name)}$" for name in tags]
            ),
        )
        for title, tags in multiline.items()
    ]
    categories = [("Percentiles", bands), ("Jacobian singular values", lines)]
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=charts)
            for title, charts in categories
            if charts
        ]
    )


def event_files(folder: Path) -> list[Path]:
    """The event files of one folder, oldest first."""
    return sorted(folder.glob("events.out.tfevents.*"))


def read_events(path: Path) -> Iterator[event_pb2.Event]:
    """The events of a file, up to where it was cut off if it was."""
    loader = event_file_loader.RawEventFileLoader(str(path))
    for record in loader.Load():
        yield event_pb2.Event.FromString(record)


def _drop_events_after(folder: Path, step: int) -> None:
    for path in event_files(folder):
        events = list(read_events(path))
        kept = [event for event in events if event.step <= step]
        if len(kept) == len(events):
            continue
        temporary = path.with_name(f"tmp.{path.name}")
        with contextlib.closing(RecordWriter(temporary.open("wb"))) as writer:
            for event in kept:
                writer.write(event.SerializeToString())
        temporary.replace(path)
