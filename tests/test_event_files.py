# SPDX-License-Identifier: Apache-2.0
"""Event files, written and read: tags, layouts, truncated files."""

import itertools
import json
import os
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from analysis import event_file, layout, readers, summaries, tags
from analysis.table import Row, Run, Table
from analysis.text import printable


@pytest.fixture
def writer(tmp_path):
    writer = summaries.Writer(tmp_path / "run" / "analysis")
    writer.open(0)
    yield writer
    writer.close()


@pytest.fixture
def run(tmp_path, writer):
    """The folder of a run with a curve of three points."""
    for step in (0, 10, 20):
        writer.scalar("a/b/c", step / 4, step=step)
    writer.flush()
    folder = tmp_path / "run"
    (folder / "recipe.json").write_text('{"recipe": {"norm": "batch"}}')
    return folder


def accumulated(folder):
    reader = event_accumulator.EventAccumulator(
        str(folder), size_guidance={"tensors": 0}
    )
    return reader.Reload()


def test_tags_have_no_separators_in_names_of_layers():
    assert tags.tag("m", "block/a", "s") == "m/block_a/s"
    assert tags.parts("m/l/a/b/s") == ("m", "l", "a/b", "s")
    assert tags.parts("m/l/s") == ("m", "l", "", "s")
    assert tags.parts("loss") == ("loss", "", "", "")
    assert tags.percentile_name(2.5) == "p2.5"
    assert tags.percentile_name(15.0) == "p15"


def test_tensorboard_reads_what_was_written(writer):
    writer.scalar("x", 1.5, step=7)
    writer.histogram("h", np.arange(10), step=7)
    writer.text("t", "**why**", step=7)
    writer.flush()
    reader = accumulated(writer.folder)
    (event,) = reader.Tensors("x")
    assert (event.step, event.tensor_proto.float_val[0]) == (7, 1.5)
    plugins = {
        tag: reader.SummaryMetadata(tag).plugin_data.plugin_name
        for tag in reader.Tags()["tensors"]
    }
    assert plugins == {"x": "scalars", "h": "histograms", "t": "text"}


def test_the_reader_gives_back_every_point(run):
    table = readers.read(run.parent)
    assert table.rows() == [
        Row("run", "analysis", "a/b/c", step, step / 4) for step in (0, 10, 20)
    ]
    assert table.runs["run"].recipe == {"norm": "batch"}


@pytest.fixture
def damage(run):
    """Where the records of the run's file begin; what damages one byte."""
    (path,) = event_file.event_files(run / "analysis")
    contents = path.read_bytes()
    events = [e.SerializeToString() for e in event_file.read_events(path)]
    starts = [0, *itertools.accumulate(len(event) + 16 for event in events)]
    assert starts.pop() == len(contents)

    def change(place):
        changed = bytearray(contents)
        changed[place] ^= 1
        path.write_bytes(changed)

    return path, starts, change


def test_a_file_that_was_cut_off_is_read_up_to_there(run, damage, caplog):
    """Wherever it was: such is any file that is being written."""
    path, starts, _ = damage
    contents = path.read_bytes()
    for size in range(starts[1], len(contents)):
        path.write_bytes(contents[:size])
        table = readers.read(run)
        whole = sum(start <= size for start in starts[1:])
        assert [row.step for row in table.rows()] == [0, 10, 20][: whole - 1]
        assert not table.warnings
    assert not caplog.records


# In a record: the length, its checksum, the data, their checksum.
@pytest.mark.parametrize("byte", [0, 7, 8, 12, 20, -1])
@pytest.mark.parametrize("record", [1, 2, 3])
def test_of_a_damaged_file_the_rest_is_missing_and_said_once(
    run, damage, caplog, byte, record
):
    path, starts, change = damage
    change([*starts, path.stat().st_size][record + (byte < 0)] + byte)
    later = summaries.Writer(run / "analysis")
    later.open(20, goes_on=True)
    later.scalar("a/b/c", 7.5, step=30)
    later.close()
    caplog.clear()
    table = readers.read(run)
    left = [0, 10, 20][: record - 1]
    assert [row.step for row in table.rows()] == [*left, 30]
    (warning,) = table.warnings
    assert f"{path} is damaged after step {[0, *left][-1]}" in warning
    assert [entry.getMessage() for entry in caplog.records] == [warning]


def test_a_file_of_something_else_is_damaged(run):
    path = run / "analysis" / "events.out.tfevents.1.of.another"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    table = readers.read(run)
    assert len(table.rows()) == 3
    (warning,) = table.warnings
    assert f"{path} is damaged after step 0" in warning


@pytest.mark.parametrize("kind", ["folder", "pipe", "protobuf", "encoding"])
def test_a_file_that_cannot_be_read_costs_no_other(run, kind):
    folder = run / "analysis"
    path = folder / "events.out.tfevents.0000000001.of.another.keras_bn"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "protobuf":
        with path.open("wb") as file:
            RecordWriter(file).write(b"\x0a\xff")
    else:
        path = folder / os.fsdecode(b"events.out.tfevents.1.\xff.keras_bn")
        path.touch()
    table = readers.read(run)
    assert len(table.rows()) == 3
    (warning,) = table.warnings
    assert printable(f"{path} cannot be read") in warning
    # Nor is it mended, or deleted, as something that can be.
    with pytest.raises(OSError, match="cannot be read"):
        event_file.drop_events_after(folder, 0)
    assert path.exists()


def test_a_number_of_too_few_bytes_is_left_out(run):
    file = event_file.EventFile(run / "analysis")
    event = event_pb2.Event(step=30)
    tensor = event.summary.value.add(tag="x").tensor
    tensor.dtype = 1
    tensor.tensor_content = b"abc"
    file.add(event)
    file.close()
    assert len(readers.read(run).rows()) == 3


def test_what_may_not_be_listed_is_said(run, monkeypatch):
    listdir = os.listdir

    def refusing(folder):
        if folder == run / "analysis":
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refusing)
    (warning,) = readers.read(run).warnings
    assert warning == f"{run / 'analysis'} cannot be read: Permission denied"


def test_a_run_that_goes_on_drops_what_came_after(run):
    folder = run / "analysis"
    writer = summaries.Writer(folder)
    writer.open(10, goes_on=True)
    writer.scalar("a/b/c", 99.0, step=20)
    writer.close()
    points = [(step, x) for _, step, x in event_file.scalars(folder)]
    assert points == [(0, 0.0), (10, 2.5), (20, 99.0)]
    assert not list(folder.glob("tmp.*"))


def test_a_run_that_begins_again_drops_its_beginning_too(run):
    folder = run / "analysis"
    with pytest.raises(ValueError, match="holds the curves of an earlier run"):
        summaries.Writer(folder).open(0)
    assert len(list(event_file.scalars(folder))) == 3
    writer = summaries.Writer(folder, overwrite=True)
    writer.open(0)
    writer.scalar("a/b/c", 7.0, step=0)
    writer.close()
    assert list(event_file.scalars(folder)) == [("a/b/c", 0, 7.0)]


def test_files_are_in_order_though_the_clock_is_set_back(run, monkeypatch):
    folder = run / "analysis"
    monkeypatch.setattr(event_file.time, "time", lambda: 1000.0)
    writer = summaries.Writer(folder)
    writer.open(20, goes_on=True)
    writer.scalar("a/b/c", 1.0, step=30)
    writer.close()
    steps = [step for _, step, _ in event_file.scalars(folder)]
    assert steps == [0, 10, 20, 30]


@pytest.mark.parametrize("contents", ["{", "[1]", "3"])
def test_a_damaged_recipe_is_one_clear_error(run, contents):
    (run / "recipe.json").write_text(contents)
    with pytest.raises(readers.ReadError, match=r"recipe.json is damaged"):
        readers.read(run)


def test_a_folder_without_runs_is_one_clear_error(tmp_path):
    with pytest.raises(readers.ReadError, match="holds no runs"):
        readers.read(tmp_path)


def test_a_closed_writer_takes_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="is not open"):
        summaries.Writer(tmp_path).scalar("x", 1.0, step=0)


def test_the_later_of_two_values_counts():
    rows = [Row("r", "train", "x", 1, 1.0), Row("r", "train", "x", 1, 2.0)]
    table = Table([Run("r", {}, [], {})], rows)
    steps, values = table.series("r", "train", "x")
    assert (steps.tolist(), values.tolist()) == ([1], [2.0])
    with pytest.raises(KeyError, match="has no train curve y"):
        table.series("r", "train", "y")


def pattern_of(*tag):
    name = tags.tag("weights", *tag)
    (pattern,) = layout.Lines("norm", [name]).proto().multiline.tag
    return pattern


def test_a_chart_of_every_layer_is_one_chart_for_all_networks():
    pattern = pattern_of(tags.EVERY_LAYER, "norm")
    for layer in ("dense", "conv2d_1", "block.a-b"):
        assert re.match(pattern, tags.tag("weights", layer, "norm"))
    for other in (
        "weights/dense/growth",
        "gradients/dense/norm",
        "weights/a/b/norm",
    ):
        assert not re.match(pattern, other)


def test_a_star_in_the_name_of_a_layer_is_no_other_layer():
    pattern = pattern_of("a*b", "norm")
    assert re.match(pattern, tags.tag("weights", "a*b", "norm"))
    assert not re.match(pattern, "weights/axxb/norm")


def test_a_layout_shows_charts_in_the_order_given(writer):
    bands = [
        layout.Band(name, f"{name}/p15", f"{name}/p50", f"{name}/p85")
        for name in ("first", "second")
    ]
    lines = [layout.Lines("all", ["a/s1", "a.b/s2"])]
    page = layout.layout(
        [
            layout.Category("bands", bands),
            layout.Category("lines", lines),
            layout.Category("nothing", []),
        ]
    )
    # TensorBoard turns margin charts round.
    titles = [[c.title for c in part.chart] for part in page.category]
    assert titles == [["second", "first"], ["all"]]
    # Tags are regular expressions that match from the start.
    (chart,) = page.category[1].chart
    assert list(chart.multiline.tag) == ["a/s1$", r"a\.b/s2$"]
    writer.layout(page)
    writer.flush()
    reader = accumulated(writer.folder)
    (event,) = reader.Tensors("custom_scalars__config__")
    written = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert json.dumps(str(written)) == json.dumps(str(page))
