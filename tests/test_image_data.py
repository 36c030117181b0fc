# SPDX-License-Identifier: Apache-2.0
"""Images in folders, archives and shards: layouts, order, damage, views."""

import itertools
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from keras_bn import data
from keras_bn.data import augment, image_folder, records, tfrecords
from keras_bn.data.arrays import BatchOrder, DataError


def picture(label, number, *, size=(20, 24), kind="jpeg", channels=3):
    """An encoded image whose brightness tells its class."""
    rng = np.random.default_rng([label, number])
    pixels = rng.integers(0, 40, (*size, channels)) + 60 * label
    encode = {"jpeg": tf.io.encode_jpeg, "png": tf.io.encode_png}[kind]
    return encode(pixels.astype(np.uint8)).numpy()


def members(*, train=6, test=3, classes=3):
    """Names and contents of a small data set, a few of each kind."""
    for part, count in (("train", train), ("val", test)):
        for label in range(classes):
            for number in range(count):
                kind = "png" if number == 1 else "jpeg"
                channels = 1 if number == 2 else 3
                yield (
                    f"{part}/c{label}/{number}.{kind}",
                    picture(label, number, kind=kind, channels=channels),
                )


def write_folder(path, contents):
    for name, contained in contents:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contained)
    return path


def write_zip(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, contained in contents:
            archive.writestr(name, contained)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), members())


@pytest.fixture(scope="module", params=["folder", "zip", "deflated", "shards"])
def dataset(request, tmp_path_factory, folder):
    """The same data set in every form."""
    path = tmp_path_factory.mktemp("data")
    if request.param == "shards":
        tfrecords.write(folder, path, shards=2, progress=False)
        return data.load("tfrecords", data_dir=path, image_size=16)
    if request.param == "folder":
        return data.load("image_folder", data_dir=folder, image_size=16)
    kinds = {"zip": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
    path = write_zip(path / "a.zip", members(), kinds[request.param])
    return data.load("image_folder", data_dir=path, image_size=16)


def batches(dataset, count, **options):
    options = {"batch_size": 4, "seed": 0, **options}
    return list(
        itertools.islice(dataset.train(**options).as_numpy_iterator(), count)
    )


def assert_same(first, second):
    for ours, theirs in zip(first, second, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_sizes_and_labels(dataset):
    assert (dataset.classes, dataset.skipped) == (3, {})
    assert (dataset.train_examples, dataset.test_examples) == (18, 9)
    for x, y in batches(dataset, 3):
        assert x.shape == (4, 16, 16, 3)
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        assert np.abs(x).max() <= 1
        # Brightness, 60 per class of 255, tells the label.
        found = np.round(((x.mean((1, 2, 3)) + 1) * 127.5 - 20) / 60)
        np.testing.assert_array_equal(found, y)


def test_test_images_come_once_and_in_order(dataset):
    sizes, labels = [], []
    for x, y in dataset.test(batch_size=4).as_numpy_iterator():
        sizes.append(len(x))
        labels += y.tolist()
    assert sizes == [4, 4, 1]
    assert sorted(labels) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_step_is_the_same_wherever_training_starts(dataset):
    options = {"distortion": "strong", "shuffle": "within"}
    whole = batches(dataset, 12, **options)
    assert_same(whole[5:9], batches(dataset, 4, start_step=5, **options))
    other = batches(dataset, 1, seed=1, **options)
    assert not np.array_equal(other[0][0], whole[0][0])


def test_parts_of_a_batch_make_the_batch(dataset):
    whole = batches(dataset, 3, batch_size=5)
    parts = [batches(dataset, 3, batch_size=5, part=(i, 2)) for i in range(2)]
    joined = [
        tuple(np.concatenate(pair) for pair in zip(*step, strict=True))
        for step in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)
    # Nine test images in batches of eight: the second part ends empty.
    shares = [
        [len(x) for x, _ in dataset.test(batch_size=8, part=(i, 2))]
        for i in range(2)
    ]
    assert shares == [[4, 1], [4, 0]]


@pytest.mark.parametrize("crops", [10, 144])
def test_many_crops(dataset, crops):
    views, labels = next(
        dataset.test(batch_size=2, crops=crops).as_numpy_iterator()
    )
    assert views.shape == (2, crops, 16, 16, 3)
    assert len(labels) == 2
    # The second half mirrors the first.
    half = crops // 2
    np.testing.assert_allclose(views[:, half:], views[:, :half, :, ::-1])


def test_the_probe_is_a_few_test_images(dataset):
    x, y = dataset.probe(4)
    assert (x.shape, y.shape) == ((4, 16, 16, 3), (4,))


@pytest.mark.parametrize("shuffle", ["all", "within", "shards"])
def test_every_epoch_has_every_example(shuffle):
    order = BatchOrder(
        examples=12,
        batch_size=4,
        seed=3,
        shuffle=shuffle,
        shard_sizes=(5, 4, 3),
    )
    epochs = order.rows(0, 9).reshape(3, 12)
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len({tuple(epoch) for epoch in epochs}) > 1
    shards = [range(5), range(5, 9), range(9, 12)]
    together = [
        [int(np.where([i in s for s in shards])[0][0]) for i in epoch]
        for epoch in epochs
    ]
    runs = [len(list(itertools.groupby(epoch))) for epoch in together]
    assert (max(runs) == 3) == (shuffle != "all")
    if shuffle == "shards":
        first = list(epochs[0][np.array(together[0]) == 0])
        assert first == list(range(5))


def damaged():
    whole = picture(0, 0)
    png = picture(0, 0, kind="png")
    return {
        "empty.jpg": b"",
        "cut.jpg": whole[: len(whole) // 2],
        "cut.png": png[:60],
        "text.jpg": b"no picture",
        "header.jpg": whole[:2] + b"\x00" * 300 + b"\xff\xd9",
        "bomb.png": png[:16] + (2**20).to_bytes(4, "big") * 2 + png[24:],
    }


def test_damaged_images_are_left_out_by_name(tmp_path, caplog):
    write_folder(tmp_path, members())
    write_folder(tmp_path / "train" / "c0", damaged().items())
    dataset = data.load("image_folder", data_dir=tmp_path, image_size=16)
    assert dataset.train_examples == 18
    names = {f"train/c0/{name}" for name in damaged()}
    assert set(dataset.skipped) == names
    assert dataset.skipped["train/c0/empty.jpg"] == "it is empty"
    assert "pixels" in dataset.skipped["train/c0/bomb.png"]
    assert "6 damaged images are left out" in caplog.text
    batches(dataset, 5)


def test_damage_inside_an_image_costs_nothing(tmp_path):
    spoilt = bytearray(picture(0, 0, size=(64, 64)))
    spoilt[len(spoilt) // 2 : len(spoilt) // 2 + 8] = bytes(8)
    write_folder(tmp_path, [("train/a/x.jpg", bytes(spoilt))])
    dataset = data.load("image_folder", data_dir=tmp_path, image_size=16)
    assert len(batches(dataset, 1, batch_size=1)) == 1


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("../train/a/x.jpg", 0o644, "outside the archive"),
        ("/train/a/x.jpg", 0o644, "outside the archive"),
        ("train\\a\\x.jpg", 0o644, "outside the archive"),
        ("train/a/x.jpg", 0o120777, "is a link"),
    ],
)
def test_hostile_members_are_refused(tmp_path, name, mode, reason):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        archive.writestr(member, picture(0, 0))
    with pytest.raises(DataError, match=reason):
        data.load("image_folder", data_dir=path, image_size=16)


def test_a_bomb_is_refused_by_the_size_it_declares(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LARGEST_FILE", 1000)
    path = write_zip(
        tmp_path / "a.zip",
        [("train/a/x.jpg", bytes(100_000))],
        zipfile.ZIP_DEFLATED,
    )
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        data.load("image_folder", data_dir=path, image_size=16)


def test_a_member_that_lies_about_its_size_is_not_inflated_further(tmp_path):
    path = write_zip(
        tmp_path / "a.zip",
        [("train/a/x.jpg", bytes(10**6))],
        zipfile.ZIP_DEFLATED,
    )
    (record,) = records._in_archive(path)
    small = records.dataclasses.replace(record, deflated=100)
    assert len(small.read()) == 100


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 cut off"])
def test_a_damaged_archive_is_one_clear_error(tmp_path, contents):
    (tmp_path / "a.zip").write_bytes(contents)
    with pytest.raises(DataError, match=r"a\.zip cannot be read"):
        data.load("image_folder", data_dir=tmp_path / "a.zip", image_size=16)


@pytest.mark.parametrize("name", ["image_folder", "tfrecords", "cifar10"])
def test_missing_data_are_named(tmp_path, name):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError):
            data.load(name, data_dir=path, image_size=16)


def test_classes_without_folders_and_without_a_test_part(tmp_path, caplog):
    """As ImageNet names files: class, underscore, the rest."""
    files = [(f"n0{i}_{i}.JPEG", picture(i, 0)) for i in range(3)]
    path = write_zip(tmp_path / "sample.zip", files)
    dataset = data.load("image_folder", data_dir=path, image_size=16)
    assert (dataset.classes, dataset.train_examples) == (3, 3)
    assert dataset.test_examples == 3
    assert "measured on the training images" in caplog.text


def test_an_interrupted_conversion_goes_on(tmp_path, folder):
    tfrecords.write(folder, tmp_path, shards=3, progress=False)
    files = sorted(tmp_path.iterdir())
    before = {path: path.read_bytes() for path in files}
    second = tmp_path / "train-00001-of-00003"
    second.unlink()
    times = {path: path.stat().st_mtime_ns for path in files if path != second}
    counts = tfrecords.write(folder, tmp_path, shards=3, progress=False)
    assert counts == {"train": 18, "validation": 9, "skipped": 0}
    assert {path: path.read_bytes() for path in files} == before
    for path, time in times.items():
        if path.name != tfrecords.CLASSES:
            assert path.stat().st_mtime_ns == time


def test_labels_may_count_from_one(tmp_path, folder):
    tfrecords.write(folder, tmp_path, shards=2, first_label=1, progress=False)
    dataset = data.load("tfrecords", data_dir=tmp_path, image_size=16)
    labels = np.concatenate([y for _, y in batches(dataset, 4)])
    assert (dataset.first_label, labels.min(), labels.max()) == (1, 0, 2)


@pytest.mark.parametrize("harm", ["cut", "missing", "bits", "other"])
def test_damaged_shards_are_one_clear_error(tmp_path, folder, harm):
    tfrecords.write(folder, tmp_path, shards=2, progress=False)
    shard = tmp_path / "train-00001-of-00002"
    contents = bytearray(shard.read_bytes())
    if harm == "cut":
        shard.write_bytes(contents[:-7])
    elif harm == "missing":
        shard.unlink()
    elif harm == "other":
        with tf.io.TFRecordWriter(str(shard)) as writer:
            writer.write(b"something else")
    if harm == "bits":
        contents[len(contents) // 2] ^= 0xFF
        shard.write_bytes(contents)
        with pytest.raises(DataError, match=r"of-00002 is damaged"):
            tfrecords.write(folder, tmp_path, shards=2, progress=False)
        return
    with pytest.raises(DataError, match=r"damaged|must hold|does not hold"):
        data.load("tfrecords", data_dir=tmp_path, image_size=16)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing", "out"], 1, "does not exist"),
        (["nothing"], 2, "SRC and DST"),
        (["a", "b", "--shards=0"], 2, "shards"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, arguments, code, message):
    result = subprocess.run(
        [sys.executable, "-m", "keras_bn.data.tfrecords", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    lines = [x for x in result.stderr.splitlines() if "tfrecords: " in x]
    assert (result.returncode, len(lines)) == (code, 1)
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("distortion", augment.DISTORTIONS)
def test_views_are_seeded_and_in_range(kind, padded, distortion):
    encoded = picture(1, 0, size=(40, 50), kind=kind)

    def view(seed):
        return augment.training_view(
            tf.constant(encoded),
            tf.constant([0, seed], tf.int64),
            size=16,
            distortion=distortion,
            padded=padded,
        ).numpy()

    first = view(0)
    assert first.shape == (16, 16, 3)
    assert np.abs(first).max() <= 1
    np.testing.assert_array_equal(first, view(0))
    assert not np.array_equal(first, view(1))


@pytest.mark.real_data
def test_real_archives(data_dir, tmp_path):
    cifar = data.load(
        "cifar10", data_dir=data_dir / "cifar10-jpeg.zip", image_size=32
    )
    assert (cifar.train_examples, cifar.test_examples) == (50_000, 10_000)
    assert len(batches(cifar, 2, batch_size=32)) == 2
    tiny = data.load(
        "image_folder",
        data_dir=data_dir / "tiny-imagenet-50.zip",
        image_size=64,
    )
    assert (tiny.classes, tiny.skipped) == (50, {})
    assert (tiny.train_examples, tiny.test_examples) == (25_000, 2_500)
    sample = data_dir / "imagenet-sample-100.zip"
    counts = tfrecords.write(sample, tmp_path, shards=4, progress=False)
    assert counts == {"train": 100, "validation": 0, "skipped": 0}
    shards = data.load("tfrecords", data_dir=tmp_path, image_size=224)
    assert shards.classes == 100
    (x, _), *_ = batches(shards, 1, batch_size=8, distortion="weak")
    assert x.shape == (8, 224, 224, 3)


def test_an_archive_is_written_whole(tmp_path):
    path = tmp_path / "a.zip"
    image_folder.write_archive(path, members())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
