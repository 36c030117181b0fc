# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from keras_bn import data
from keras_bn.data.errors import DataError
from keras_bn.data.tfrecords import sharding
from tests import pictures
from tests.test_images import assert_same, batches, damaged_tables


@pytest.fixture
def source(tmp_path):
    contents = pictures.members(train=6, test=2)
    return pictures.write_zip(tmp_path / "set.zip", contents)


def convert(source, target, shards=3, **options):
    return sharding.write(source, target, shards=shards, **options)


def examples(folder, pattern="*-of-*"):
    for path in sorted(folder.glob(pattern)):
        for record in tf.data.TFRecordDataset(str(path)):
            example = tf.train.Example.FromString(record.numpy())
            yield {
                name: (f.bytes_list.value or f.int64_list.value)[0]
                for name, f in example.features.feature.items()
            }


def test_shards_hold_each_image_once_with_the_common_fields(source, tmp_path):
    target = tmp_path / "out"
    counts = convert(source, target)
    assert counts == {"train": 12, "validation": 4, "skipped": 0}
    assert sorted(path.name for path in target.iterdir()) == [
        "classes.txt",
        "conversion.json",
        "train-00000-of-00003",
        "train-00001-of-00003",
        "train-00002-of-00003",
        "validation-00000-of-00001",
    ]
    assert (target / "classes.txt").read_text() == "cat\ndog\n"
    contents = pictures.members(train=6, test=2)
    found = {e["image/filename"].decode(): e for e in examples(target)}
    assert set(found) == set(contents)
    for name, example in found.items():
        cat = "/cat/" in name
        assert example == {
            "image/encoded": contents[name],
            "image/filename": name.encode(),
            "image/format": b"JPEG",
            "image/height": 12,
            "image/width": 16,
            "image/class/label": 0 if cat else 1,
            "image/class/text": b"cat" if cat else b"dog",
        }


def test_formats_and_sizes_are_those_of_the_picture(tmp_path):
    contents = {
        "train/cat/a.jpg": pictures.png(height=5, width=9),
        "train/cat/b.jpg": pictures.CMYK,
    }
    convert(
        pictures.write_folder(tmp_path / "in", contents),
        tmp_path / "out",
        shards=1,
    )
    assert {
        (e["image/format"], e["image/height"], e["image/width"])
        for e in examples(tmp_path / "out")
    } == {(b"PNG", 5, 9), (b"JPEG", 8, 8)}


@pytest.mark.parametrize("first_label", [0, 1])
@pytest.mark.parametrize("named", [True, False])
def test_shards_give_the_images_of_their_source(
    source, tmp_path, first_label, named
):
    convert(source, tmp_path / "out", first_label=first_label)
    if not named:
        (tmp_path / "out" / "classes.txt").unlink()
    shards = data.load("tfrecords", data_dir=tmp_path / "out", image_size=8)
    direct = data.load("image_folder", data_dir=source, image_size=8)
    assert shards.classes == 2
    assert (shards.train_examples, shards.test_examples) == (12, 4)

    def by_content(dataset):
        ((x, y),) = dataset.test(batch_size=4).as_numpy_iterator()
        order = np.lexsort(x.reshape(len(x), -1).T)
        return [(x[order], y[order])]

    assert_same(by_content(shards), by_content(direct))


@pytest.mark.parametrize("shuffle", ["all", "within", "shards"])
def test_a_run_on_shards_that_resumes_goes_on(source, tmp_path, shuffle):
    convert(source, tmp_path / "out")
    dataset = data.load("tfrecords", data_dir=tmp_path / "out", image_size=8)
    assert dataset.shard_sizes == (4, 4, 4)
    whole = batches(dataset, 8, shuffle=shuffle)
    resumed = batches(dataset, 3, shuffle=shuffle, start_step=5)
    assert_same(resumed, whole[5:])


def shard_of(row):
    return int(row) // 4


@pytest.mark.parametrize("shuffle", ["within", "shards"])
def test_shards_stay_together_unless_all_are_mixed(shuffle):
    from keras_bn.data.batch_order import BatchOrder

    order = BatchOrder(
        examples=12,
        batch_size=4,
        seed=0,
        shuffle=shuffle,
        shard_sizes=(4, 4, 4),
    )
    epochs = [order.rows(3 * epoch, 3) for epoch in range(20)]
    for epoch in epochs:
        assert sorted(epoch.ravel()) == list(range(12))
        assert all(len({shard_of(r) for r in batch}) == 1 for batch in epoch)
    assert len({tuple(map(shard_of, e[:, 0])) for e in epochs}) > 3
    sorted_within = [np.array_equal(np.sort(e, 1), e) for e in epochs]
    assert all(sorted_within) == (shuffle == "shards")


def test_names_may_be_in_any_encoding(tmp_path):
    """Of files; names of classes are listed in a text."""
    contents = pictures.members(train=2, test=1)
    images = pictures.write_folder(tmp_path / "images", contents)
    path = next(images.glob("train/cat/*"))
    path.rename(os.fsdecode(os.fsencode(path) + b"\xff.png"))
    convert(images, tmp_path / "out", 1)
    names = {e["image/filename"] for e in examples(tmp_path / "out")}
    assert sum(name.endswith(b"\xff.png") for name in names) == 1
    for folder in list(images.glob("*/cat")):
        folder.rename(folder.with_name("c\udcffat"))
    with pytest.raises(DataError, match=r"printable.*c\\udcffat"):
        convert(images, tmp_path / "other", 1)


def test_a_conversion_is_the_same_for_the_same_seed(source, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        convert(source, tmp_path / name, seed=seed)

    def contents(name):
        return [
            path.read_bytes() for path in sorted((tmp_path / name).glob("t*"))
        ]

    assert contents("a") == contents("b")
    assert contents("a") != contents("c")


def test_an_interrupted_conversion_goes_on(source, tmp_path, monkeypatch):
    convert(source, tmp_path / "whole")
    target = tmp_path / "out"
    count_records, calls = sharding.count_records, []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return count_records(path)

    monkeypatch.setattr(sharding, "count_records", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, target)
    (done,) = target.glob("train-?????-of-00003")
    before = done.stat()
    with pytest.raises(DataError, match="must hold 3 shards"):
        data.load("tfrecords", data_dir=target, image_size=8)
    assert convert(source, target)["train"] == 12
    assert done.stat().st_mtime_ns == before.st_mtime_ns
    assert not list(target.glob("tmp.*"))
    for path in (tmp_path / "whole").iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()


def test_what_a_killed_conversion_left_is_deleted(source, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    shard = "train-00001-of-00003"
    gone = [
        tmp_path / f"tmp.{process}.{name}"
        for process in (ended.pid, os.getpid(), 10**30)
        for name in (shard, "classes.txt")
    ]
    kept = [
        tmp_path / f"tmp.{os.getppid()}.{shard}",  # of a live process
        tmp_path / f"tmp.{ended.pid}.train-00001-of-00004",
        tmp_path / f"tmp.mine.{shard}",
        tmp_path / "tmp.mine.txt",
    ]
    for path in (*gone, *kept):
        path.write_bytes(b"half")
    convert(source, tmp_path)
    assert not [path for path in gone if path.exists()]
    assert all(path.read_bytes() == b"half" for path in kept)
    assert sorted(tmp_path.glob("tmp.*")) == sorted(kept)


@pytest.mark.parametrize("change", [{"seed": 1}, {"first_label": 1}])
def test_two_conversions_are_never_mixed(source, tmp_path, change):
    convert(source, tmp_path / "out")
    with pytest.raises(DataError, match="another folder"):
        convert(source, tmp_path / "out", **change)


def test_a_folder_of_something_else_is_left_alone(source, tmp_path):
    (tmp_path / "classes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"classes\.txt and no conversion"):
        convert(source, tmp_path)
    assert (tmp_path / "classes.txt").read_text() == "mine"


def test_data_are_known_by_what_they_are(source, tmp_path):
    def identity(folder):
        images = data.load("tfrecords", data_dir=folder, image_size=8)
        return images.identity()

    convert(source, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    other = pictures.write_zip(
        tmp_path / "other.zip", pictures.members(classes=("ape", "zebra"))
    )
    convert(other, tmp_path / "other")
    assert identity(tmp_path / "one") == identity(tmp_path / "moved")
    assert identity(tmp_path / "one") != identity(tmp_path / "other")


def test_other_images_are_never_mixed_in(source, tmp_path):
    convert(source, tmp_path / "out")
    other = pictures.write_zip(
        tmp_path / "other.zip", pictures.members(train=7, test=2)
    )
    with pytest.raises(DataError, match="another folder"):
        convert(other, tmp_path / "out")


def test_a_shard_of_another_length_is_named(source, tmp_path):
    convert(source, tmp_path / "out")
    shard = tmp_path / "out" / "train-00001-of-00003"
    shard.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"train-00001.*must hold 4 images. Received: 0"
    ):
        convert(source, tmp_path / "out")


def test_a_shard_that_lost_its_images_is_named_when_read(source, tmp_path):
    convert(source, tmp_path / "out")
    shard = tmp_path / "out" / "train-00001-of-00003"
    shard.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"train-00001.*must hold 4 images. Received: 0"
    ):
        data.load("tfrecords", data_dir=tmp_path / "out", image_size=8)


def test_a_conversion_says_how_many_images_each_shard_has(source, tmp_path):
    convert(source, tmp_path)
    about = json.loads((tmp_path / "conversion.json").read_text("utf-8"))
    assert about["images_in"] == {
        "train-00000-of-00003": 4,
        "train-00001-of-00003": 4,
        "train-00002-of-00003": 4,
        "validation-00000-of-00001": 4,
    }


@pytest.mark.parametrize("name", ["classes.txt", "conversion.json"])
def test_what_should_be_text_and_is_not_is_named(source, tmp_path, name):
    convert(source, tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        data.load("tfrecords", data_dir=tmp_path / "out", image_size=8)


@pytest.mark.parametrize("contents", ["[]", '{"images_in": 3}', "{"])
def test_a_conversion_of_something_else_is_named(source, tmp_path, contents):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "conversion.json").write_text(contents)
    with pytest.raises(DataError, match=r"conversion.json (is not|cannot be)"):
        convert(source, tmp_path / "out")


def test_damaged_images_are_left_out_also_of_what_goes_on(tmp_path, caplog):
    contents = pictures.members()
    contents["train/dog/bad.jpg"] = damaged_tables()
    contents["train/dog/empty.jpg"] = b""
    source = pictures.write_folder(tmp_path / "in", contents)
    for _ in range(2):
        caplog.clear()
        counts = convert(source, tmp_path / "out")
        assert counts == {"train": 12, "validation": 4, "skipped": 2}
        for name in ("bad", "empty"):
            assert caplog.text.count(f"left out: train/dog/{name}.jpg") == 1


def damage_shard(path, place):
    contents = bytearray(path.read_bytes())
    contents[place] ^= 0xFF
    path.write_bytes(contents)


@pytest.mark.parametrize("place", [2, 9, 40, -2])
def test_a_changed_byte_is_found(source, tmp_path, place):
    convert(source, tmp_path / "out")
    damage_shard(tmp_path / "out" / "train-00001-of-00003", place)
    with pytest.raises(
        DataError, match="train-00001-of-00003 is damaged"
    ) as raised:
        data.load("tfrecords", data_dir=tmp_path / "out", image_size=8)
    assert "function_node" not in str(raised.value)
    with pytest.raises(DataError, match=r"train-00001.*damaged"):
        convert(source, tmp_path / "out")


def test_a_shard_that_is_cut_off_is_named(source, tmp_path):
    convert(source, tmp_path / "out")
    path = tmp_path / "out" / "train-00002-of-00003"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"train-00002.*ends within the record"):
        data.load("tfrecords", data_dir=tmp_path / "out", image_size=8)


def test_a_shard_that_is_missing_is_named(source, tmp_path):
    convert(source, tmp_path / "out")
    (tmp_path / "out" / "train-00002-of-00003").unlink()
    with pytest.raises(
        DataError,
        match=r"must hold 3 shards.*: 2, without train-00002-of-00003$",
    ):
        data.load("tfrecords", data_dir=tmp_path / "out", image_size=8)


def test_five_of_the_shards_that_are_missing_are_named(tmp_path):
    write_records(tmp_path / "train-00003-of-00009", [0])
    named = ", ".join(f"train-{i:05d}-of-00009" for i in (0, 1, 2, 4, 5))
    with pytest.raises(DataError, match=rf"1, without {named} and 3 more$"):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)


def test_a_shard_too_many_is_named(source, tmp_path):
    convert(source, tmp_path)
    write_records(tmp_path / "train-00000-of-00004", [0])
    with pytest.raises(
        DataError, match=r"3 shards.*: 4, with train-00000-of-00004$"
    ):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)


def write_records(path, labels, **others):
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for label in labels:
            features = {
                "image/encoded": pictures.jpeg(label % 99),
                "image/class/label": label,
                **others,
            }
            example = tf.train.Example(
                features=tf.train.Features(
                    feature={
                        name: sharding._feature(value)
                        for name, value in features.items()
                        if value is not None
                    }
                )
            )
            writer.write(example.SerializeToString())


@pytest.mark.parametrize(
    ("labels", "names", "classes", "first"),
    [
        ([1, 2, 3], 0, 3, 1),
        ([0, 1, 2], 0, 3, 0),
        ([1, 2, 3], 3, 3, 1),
        ([1, 2], 3, 3, 0),  # a first class without images
        ([0, 1], 3, 3, 0),
    ],
)
def test_labels_count_from_zero_or_one(tmp_path, labels, names, classes, first):
    write_records(tmp_path / "train-00000-of-00001", labels)
    if names:
        (tmp_path / "classes.txt").write_text("name\n" * names)
    dataset = data.load("tfrecords", data_dir=tmp_path, image_size=8)
    assert dataset.classes == classes
    ((_, y),) = dataset.test(batch_size=9).as_numpy_iterator()
    assert y.tolist() == [label - first for label in labels]


@pytest.mark.parametrize(
    ("labels", "names"), [([-1, 2], 0), ([2, 3], 0), ([0, 3], 3), ([4], 3)]
)
def test_labels_without_a_class_are_refused(tmp_path, labels, names):
    write_records(tmp_path / "train-00000-of-00001", labels)
    if names:
        (tmp_path / "classes.txt").write_text("name\n" * names)
    received = f"labels {min(labels)} to {max(labels)}"
    with pytest.raises(DataError, match=rf"from 0 or from 1.*{received}"):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)


@pytest.mark.parametrize("largest", [3, 5_000_000, 2**32 + 1, 2**63 - 1])
def test_more_classes_than_images_need_names(tmp_path, largest):
    write_records(tmp_path / "train-00000-of-00001", [0, 1, largest])
    with pytest.raises(DataError, match=rf"classes.txt.*labels 0 to {largest}"):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)
    (tmp_path / "classes.txt").write_text("name\n" * 4)
    if largest > 4:
        with pytest.raises(DataError, match=rf"labels 0 to {largest}"):
            data.load("tfrecords", data_dir=tmp_path, image_size=8)
    else:
        dataset = data.load("tfrecords", data_dir=tmp_path, image_size=8)
        assert dataset.classes == 4


@pytest.mark.parametrize("field", ["image/encoded", "image/class/label"])
def test_records_of_something_else_are_named(tmp_path, field):
    write_records(tmp_path / "train-00000-of-00001", [0], **{field: None})
    with pytest.raises(
        DataError, match=rf"class/label: Name: .*Feature: {field}.*not be found"
    ):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)


def test_damaged_images_of_shards_made_elsewhere_are_left_out(tmp_path, caplog):
    write_records(tmp_path / "train-00000-of-00002", [0, 1, 1])
    write_records(
        tmp_path / "train-00001-of-00002", [0, 1], **{"image/encoded": b"no"}
    )
    write_records(tmp_path / "validation-00000-of-00001", [1, 0])
    dataset = data.load("tfrecords", data_dir=tmp_path, image_size=8)
    assert (dataset.train_examples, dataset.test_examples) == (3, 2)
    assert dataset.shard_sizes == (3,)
    assert [name.split(":")[0] for name in dataset.skipped] == [
        "train-00001-of-00002"
    ] * 2
    assert "2 damaged images are left out: train-00001-of" in caplog.text
    labels = np.concatenate(
        [y for _, y in batches(dataset, 2, batch_size=3, shuffle="within")]
    )
    assert sorted(labels) == [0, 0, 1, 1, 1, 1]
    write_records(
        tmp_path / "train-00000-of-00002", [0], **{"image/encoded": b""}
    )
    with pytest.raises(DataError, match="no training image decodes"):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)


def test_images_of_shards_made_elsewhere_look_whole_as_files_do(tmp_path):
    """Cut off, of another kind, or too large for memory."""
    whole = pictures.jpeg()
    huge = bytearray(pictures.png())
    huge[16:24] = struct.pack(">II", 20_000, 20_000)
    gif = b"GIF89a" + bytes(20)
    for number, encoded in enumerate((whole, whole[:-30], bytes(huge), gif)):
        name = f"train-{number:05d}-of-00004"
        write_records(tmp_path / name, [0], **{"image/encoded": encoded})
    dataset = data.load("tfrecords", data_dir=tmp_path, image_size=8)
    assert dataset.train_examples == 1
    reasons = " ".join(dataset.skipped.values())
    for reason in ("end is missing", "pixels", "neither JPEG nor PNG"):
        assert reason in reasons


def test_a_test_part_must_have_a_whole_image(tmp_path):
    write_records(tmp_path / "train-00000-of-00001", [0, 1])
    write_records(
        tmp_path / "validation-00000-of-00001",
        [0, 1],
        **{"image/encoded": b"no"},
    )
    with pytest.raises(DataError, match="a whole image in its test part"):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)


def test_test_images_are_of_classes_that_are_taught(tmp_path):
    write_records(tmp_path / "train-00000-of-00001", [1, 2, 2])
    write_records(tmp_path / "validation-00000-of-00001", [1, 3])
    with pytest.raises(DataError, match="Received, without any: 3"):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)


def test_folders_without_training_records_are_named(tmp_path):
    with pytest.raises(DataError, match="holds no shards"):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)
    write_records(tmp_path / "train-00000-of-00001", [])
    with pytest.raises(DataError, match="hold no records"):
        data.load("tfrecords", data_dir=tmp_path, image_size=8)


def run_cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "keras_bn.data.tfrecords", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_converts_and_counts(source, tmp_path):
    done = run_cli(source, tmp_path / "out", "--shards=2", "--first_label=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "train: 12, validation: 4, skipped: 0\n"
    assert "train: 2/2 shards, 12 images" in done.stderr
    assert "Warning" not in done.stderr
    dataset = data.load("tfrecords", data_dir=tmp_path / "out", image_size=8)
    assert sorted(set(dataset.training_images.labels)) == [0, 1]


def test_the_command_cleans_up_when_it_is_terminated(source, tmp_path):
    """In the midst of a shard, held up after each of its images."""
    target = tmp_path / "out"
    script = (
        "import runpy, time\n"
        "from keras_bn.data.tfrecords import sharding\n"
        "examples = sharding._examples\n"
        "def slow(*arguments):\n"
        "    for example in examples(*arguments):\n"
        "        yield example\n"
        "        time.sleep(1)\n"
        "sharding._examples = slow\n"
        "runpy.run_module('keras_bn.data.tfrecords', run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(target), "--shards=2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(target.glob("tmp.*.train*")):
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "tfrecords: ended by SIGTERM" in said.splitlines()
    assert "Traceback" not in said
    assert [path.name for path in target.iterdir()] == ["conversion.json"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{source}", "{out}", "--shards=13"], 2, "Received: shards=13"),
        (["{out}/nowhere", "{out}"], 1, "nowhere does not exist"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    source, tmp_path, arguments, code, message
):
    names = {"source": source, "out": tmp_path / "out"}
    done = run_cli(*(argument.format(**names) for argument in arguments))
    said = [x for x in done.stderr.splitlines() if x.startswith("tfrecords:")]
    assert done.returncode == code
    assert len(said) == 1
    assert re.search(message, said[0])
    assert "Traceback" not in done.stderr


@pytest.mark.real_data
def test_real_photographs(data_dir, tmp_path):
    source = data_dir / "imagenet-sample-100.zip"
    assert convert(source, tmp_path / "out", shards=4)["train"] == 100
    dataset = data.load("tfrecords", data_dir=tmp_path / "out", image_size=224)
    assert (dataset.train_examples, dataset.classes) == (100, 100)
    ((x, y),) = batches(dataset, 1, batch_size=32)
    assert x.shape == (32, 224, 224, 3)
    assert len(set(y)) == 32
