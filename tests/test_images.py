# SPDX-License-Identifier: Apache-2.0
import dataclasses
import os
import shutil
import struct
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_bn import counting, data, errors, failures
from keras_bn.data import (
    augment,
    decoding,
    headers,
    listing,
    records,
    resident,
    verification,
    views,
)
from keras_bn.data.errors import DataError
from tests import archives, pictures


@pytest.fixture(params=["folder", "stored", "deflated"])
def written(request, tmp_path):
    """Writes pictures in each form a data set may have; returns its path."""

    def write(contents):
        if request.param == "folder":
            return pictures.write_folder(tmp_path / "set", contents)
        kind = {
            "stored": zipfile.ZIP_STORED,
            "deflated": zipfile.ZIP_DEFLATED,
        }[request.param]
        return pictures.write_zip(tmp_path / "set.zip", contents, kind)

    return write


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two classes of nine training and four test images."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.zip"
    pictures.write_zip(path, pictures.members(train=9, test=4))
    return data.load("image_folder", data_dir=path, image_size=8)


def batches(dataset, steps, **options):
    options = {"batch_size": 4, "seed": 3, "distortion": "strong", **options}
    return list(dataset.train(**options).take(steps).as_numpy_iterator())


def assert_same(left, right):
    assert len(left) == len(right)
    for (x, y), (other_x, other_y) in zip(left, right, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)


class Repeated(list):
    """Its first item over and over: 10**12 in all."""

    def __len__(self):
        return 10**12


def damaged_tables():
    """A JPEG with header and end, whose Huffman table is no table."""
    whole = bytearray(pictures.jpeg())
    table = whole.index(b"\xff\xc4")
    whole[table + 5 : table + 21] = b"\xff" * 16
    return bytes(whole)


def test_every_form_gives_the_same_images(written):
    contents = pictures.members()
    dataset = data.load(
        "image_folder", data_dir=written(contents), image_size=8
    )
    assert (dataset.classes, dataset.input_shape) == (2, (8, 8, 3))
    assert (dataset.train_examples, dataset.test_examples) == (12, 4)
    ((x, y),) = dataset.test(batch_size=9).as_numpy_iterator()
    assert (x.dtype, y.dtype) == (np.float32, np.int32)
    assert y.tolist() == [0, 0, 1, 1]
    names = ("cat/0", "cat/1", "dog/0", "dog/1")
    for image, name in zip(x, names, strict=True):
        expected = views.test_view(
            tf.constant(contents[f"val/{name}.jpg"]), size=8, padded=False
        )
        np.testing.assert_allclose(image, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "classes", "train", "test"),
    [
        (["train/cat/a.jpg", "test/cat/b.jpg"], ["cat"], 1, 1),
        (["train/cat/a.jpg", "validation/cat/b.jpg"], ["cat"], 1, 1),
        (["set/train/cat/images/a.JPEG", "set/val/cat/b.JPEG"], ["cat"], 1, 1),
        (["train/train/a.jpg", "train/car/a.jpg"], ["car", "train"], 2, 0),
        (["set/train/n1_a.jpg", "set/val/n1_b.jpg"], ["n1"], 1, 1),
        (["a/train/cat/a.jpg", "b/val/cat/b.jpg"], ["cat"], 1, 1),
        (["set/dog/a.jpg", "set/cat/b.png"], ["cat", "dog"], 2, 0),
        (["n02_dog.JPEG", "n01_cat.JPEG"], ["n01", "n02"], 2, 0),
        (["a/x.jpg", "a/.x.jpg", "__MACOSX/a/x.jpg", "n.txt"], ["a"], 1, 0),
    ],
)
def test_layouts(tmp_path, names, classes, train, test):
    path = pictures.write_zip(
        tmp_path / "set.zip", dict.fromkeys(names, pictures.jpeg())
    )
    tree = listing.read_tree(path)
    assert list(tree.classes) == classes
    assert (len(tree.train), len(tree.test)) == (train, test)


def test_a_class_without_training_images_is_refused(tmp_path):
    contents = dict.fromkeys(
        ["train/cat/a.jpg", "val/images/b.jpg"], pictures.jpeg()
    )
    folder = pictures.write_folder(tmp_path, contents)
    with pytest.raises(DataError, match=r"without any: images"):
        listing.read_tree(folder)


@pytest.mark.parametrize("encoded", [b"", damaged_tables()])
def test_a_class_without_whole_training_images_is_refused(tmp_path, encoded):
    contents = pictures.members()
    for name in contents:
        if name.startswith("train/cat/"):
            contents[name] = encoded
    folder = pictures.write_folder(tmp_path / "set", contents)
    with pytest.raises(DataError, match=r"/set: every class.*any: cat$"):
        data.load("image_folder", data_dir=folder, image_size=8)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ("train/0.png", "boat/0.png"),
        ("train/old/0.png", "boat/0.png"),
        ("boat/train/a_0.png", "car/train/a_0.png"),
        ("train/cat/0.png", "logo_0.png"),
    ],
)
def test_a_part_is_not_guessed(tmp_path, inside, outside):
    contents = dict.fromkeys([inside, outside], pictures.png())
    folder = pictures.write_folder(tmp_path / "set", contents)
    received = f"Received: {inside}, {outside}$"
    with pytest.raises(DataError, match=rf"/set: .*train/<class>.*{received}"):
        listing.read_tree(folder)


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("image", ["ILSVRC2012_val_0001.JPEG", "0001.JPEG"])
@pytest.mark.parametrize("above", ["", "Data/CLS-LOC/"])
def test_flat_test_images_need_folders_of_classes(tmp_path, part, image, above):
    contents = dict.fromkeys(
        [f"{above}train/n01/a.jpg", f"{above}{part}/{image}"], pictures.jpeg()
    )
    folder = pictures.write_folder(tmp_path / "set", contents)
    rule = f"{above}{part}/ must have a folder per class, as train/ has"
    received = f"Received: {above}{part}/{image}$"
    with pytest.raises(DataError, match=rf"/set: {rule}.*{received}"):
        listing.read_tree(folder)


def test_flat_test_images_may_be_named_after_the_folders(tmp_path):
    contents = dict.fromkeys(["train/n01/a.jpg", "val/n01_b.jpg"], b"")
    tree = listing.read_tree(pictures.write_folder(tmp_path, contents))
    assert (tree.classes, len(tree.test)) == (("n01",), 1)


@pytest.mark.parametrize("name", ["ILSVRC2012_test_1.JPEG", "cat/a.jpg"])
def test_of_two_test_parts_one_is_taken(written, name, caplog):
    contents = pictures.members()
    contents[f"test/{name}"] = pictures.jpeg()
    tree = listing.read_tree(written(contents))
    assert tree.classes == ("cat", "dog")
    assert (len(tree.train), len(tree.test)) == (12, 4)
    assert all(r.name.startswith("val/") for r in tree.test.records)
    assert "val/ is the test part, so test/ is left out (1 im" in caplog.text


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (["img_val.tar"], "img_val.tar", "img_val.tar"),
        (["n01.TAR", "n02.TAR"], "", "n01.TAR"),
        (["train/n01.tar", "val/ILSVRC_1.jpg"], "", "train/n01.tar"),
    ],
)
def test_tar_archives_must_be_unpacked(tmp_path, names, given, said):
    pictures.write_folder(tmp_path, dict.fromkeys(names, bytes(1024)))
    with pytest.raises(DataError, match=rf"zip .*unpacked\. Rec.*/{said}$"):
        listing.read_tree(tmp_path / given)


def test_a_listing_reads_no_image(written, monkeypatch):
    path = written(pictures.members())
    monkeypatch.setattr(records.Record, "read", None)
    tree = listing.read_tree(path)
    assert (len(tree.train), len(tree.test)) == (12, 4)


def test_a_class_is_not_guessed(tmp_path):
    folder = pictures.write_folder(
        tmp_path / "set", {"train/1.png": pictures.png()}
    )
    with pytest.raises(DataError, match=r"<class>_<rest>.*train/1.png"):
        listing.read_tree(folder)


def test_links_to_folders_and_images_are_followed(tmp_path):
    elsewhere = pictures.write_folder(tmp_path / "there", pictures.members())
    folder = tmp_path / "set"
    (folder / "train" / "cat").mkdir(parents=True)
    for i in range(3):
        image = f"train/cat/{i}.jpg"
        (folder / image).symlink_to(elsewhere / image)
    for name in ("train/dog", "val"):
        (folder / name).symlink_to(elsewhere / name)
    tree = listing.read_tree(folder)
    assert tree.classes == ("cat", "dog")
    assert np.bincount(tree.train.labels).tolist() == [3, 6]
    assert np.bincount(tree.test.labels).tolist() == [2, 2]
    assert tree.train.records[-1].name == "train/dog/5.jpg"


@pytest.mark.parametrize("to", [".", "..", "../.."])
def test_links_that_lead_round_in_a_circle_are_refused(tmp_path, to):
    folder = pictures.write_folder(tmp_path / "set", pictures.members())
    (folder / "train" / "round").symlink_to(to)
    with pytest.raises(DataError, match=r"train/round.*must not lie in itself"):
        listing.read_tree(folder)


def test_links_that_lead_nowhere_are_refused_unless_hidden(tmp_path):
    folder = pictures.write_folder(tmp_path / "set", pictures.members())
    (folder / "train" / ".lock").symlink_to("nobody")
    assert listing.read_tree(folder).classes == ("cat", "dog")
    (folder / "train" / "bird").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"train/bird is a link.*nowhere"):
        listing.read_tree(folder)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    folder = pictures.write_folder(tmp_path / "set", pictures.members())
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train/dog.*Permission denied"):
        listing.read_tree(folder)


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe must be a file"):
        listing.read_tree(tmp_path / "pipe")


def test_a_test_part_that_is_absent_is_said(tmp_path, caplog):
    path = pictures.write_folder(tmp_path, {"train/cat/a.jpg": pictures.jpeg()})
    dataset = data.load("image_folder", data_dir=path, image_size=8)
    assert dataset.test_examples == 1
    assert "accuracy is measured on the training images" in caplog.text


def without_tail(whole):
    return whole[: len(whole) // 2]


def wide_png():
    """A PNG that says that it has 2**29 pixels."""
    header = struct.pack(">IIBBBBB", 2**15, 2**14, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    checked = chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + checked + b"IEND"


DAMAGED = {
    "empty": (b"", "it is empty"),
    "text": (b"<html>404</html>", "neither JPEG nor PNG"),
    "cut": (without_tail(pictures.jpeg(height=64)), "its end is missing"),
    "cut_png": (without_tail(pictures.png(height=64)), "its end is missing"),
    "header": (pictures.jpeg()[:30], "its header is damaged"),
    "tables": (damaged_tables(), "does not decode"),
    "bomb": (wide_png(), "more than 268,435,456 pixels"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_images_are_left_out_and_named_once(written, kind, caplog):
    contents = pictures.members()
    name = f"train/cat/{kind}.jpg"
    contents[name], reason = DAMAGED[kind]
    dataset = data.load(
        "image_folder", data_dir=written(contents), image_size=8
    )
    assert list(dataset.skipped) == [name]
    assert reason in dataset.skipped[name]
    assert dataset.train_examples == 12
    batches(dataset, 3)
    dataset.probe()
    dataclasses.replace(dataset, image_size=4)
    assert caplog.text.count("1 damaged images are left out") == 1
    assert name in caplog.text


def test_all_kinds_of_damage_are_told_apart(written):
    contents = pictures.members()
    for kind, (bytes_, _) in DAMAGED.items():
        contents[f"train/cat/{kind}.jpg"] = bytes_
        contents[f"val/dog/{kind}.jpg"] = bytes_
    dataset = data.load(
        "image_folder", data_dir=written(contents), image_size=8
    )
    assert (dataset.train_examples, dataset.test_examples) == (12, 4)
    assert len(dataset.skipped) == 2 * len(DAMAGED)
    for kind, (_, reason) in DAMAGED.items():
        for place in ("train/cat", "val/dog"):
            assert reason in dataset.skipped[f"{place}/{kind}.jpg"]


def test_images_that_are_too_large_are_left_out_unread(tmp_path, monkeypatch):
    contents = pictures.members()
    contents["train/cat/huge.jpg"] = bytes(3000)
    monkeypatch.setattr(listing, "LARGEST_FILE", 2999)
    path = pictures.write_folder(tmp_path, contents)
    dataset = data.load("image_folder", data_dir=path, image_size=8)
    assert dataset.skipped == {
        "train/cat/huge.jpg": "it has more than 2,999 bytes"
    }


def test_images_that_cannot_be_read_are_left_out(tmp_path, monkeypatch):
    path = pictures.write_folder(tmp_path, pictures.members())
    read = records.Record.read

    def refuse(record):
        if record.name == "train/cat/1.jpg":
            raise PermissionError(13, "Permission denied", record.file)
        return read(record)

    monkeypatch.setattr(records.Record, "read", refuse)
    dataset = data.load("image_folder", data_dir=path, image_size=8)
    assert dataset.train_examples == 11
    ((name, why),) = dataset.skipped.items()
    assert name == "train/cat/1.jpg"
    assert why.startswith("it cannot be read: [Errno 13] Permission denied")


def test_a_member_that_does_not_inflate_is_left_out(tmp_path):
    contents = pictures.members()
    path = pictures.write_zip(
        tmp_path / "set.zip", contents, zipfile.ZIP_DEFLATED
    )
    record = listing.read_tree(path).train.records[2]
    spoiled = bytearray(path.read_bytes())
    spoiled[record.offset] |= 6  # There is no such kind of block.
    path.write_bytes(spoiled)
    dataset = data.load("image_folder", data_dir=path, image_size=8)
    ((name, why),) = dataset.skipped.items()
    assert name == record.name
    assert why.startswith("it cannot be read: Error -3")


def test_a_check_counts_where_it_takes_long(tiny, monkeypatch, capfd):
    path = tiny.training_images.records[0].file
    data.load("image_folder", data_dir=path, image_size=8)
    assert "checking" not in capfd.readouterr().err
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(
        counting, "time", SimpleNamespace(monotonic=clock.__next__)
    )
    monkeypatch.setattr(verification, "CHUNK", 4)
    data.load("image_folder", data_dir=path, image_size=8)
    said = capfd.readouterr().err
    assert "checking train: 4/18 images" not in said
    assert "\rchecking train: 8/18 images\rchecking train: 12/18" in said
    assert "\rchecking train: 18/18 images\n" in said


def test_only_damaged_images_are_no_data_set(tmp_path):
    for kind, (bytes_, _) in DAMAGED.items():
        folder = pictures.write_folder(
            tmp_path / kind, {"train/cat/a.jpg": bytes_}
        )
        with pytest.raises(DataError, match=r"without any: cat"):
            data.load("image_folder", data_dir=folder, image_size=8)


@pytest.mark.parametrize("encoded", [b"", damaged_tables()])
def test_a_test_part_must_have_a_whole_image(tmp_path, encoded):
    contents = pictures.members(train=2, test=1)
    contents |= {name: encoded for name in contents if name[:3] == "val"}
    folder = pictures.write_folder(tmp_path / "images", contents)
    with pytest.raises(DataError, match="a whole image in its test part"):
        data.load("image_folder", data_dir=folder, image_size=8)


def test_damaged_images_are_found_wherever_they_stand(tmp_path):
    rng = np.random.default_rng(0)
    count = 3 * verification.CHUNK + 5
    bad = set(rng.choice(count, 9, replace=False).tolist()) | {0, count - 1}
    stored = {False: pictures.jpeg(), True: damaged_tables()}
    for broken, contents in stored.items():
        (tmp_path / str(broken)).write_bytes(contents)
    images = records.Images(
        [
            records.Record(
                f"{row}.jpg",
                str(tmp_path / str(row in bad)),
                0,
                len(stored[row in bad]),
            )
            for row in range(count)
        ],
        np.zeros(count, np.int32),
    )
    _, damaged = verification.whole(images, "train")
    assert damaged.keys() == {f"{row}.jpg" for row in bad}


def test_what_passes_the_check_decodes():
    """Bytes changed at random: found when listed, or no error ever."""
    rng = np.random.default_rng(0)
    passed = 0
    for trial in range(200):
        whole = np.frombuffer(pictures.jpeg(trial), np.uint8).copy()
        places = rng.integers(2, len(whole), rng.integers(1, 9))
        whole[places] = rng.integers(0, 256, len(places))
        encoded = whole.tobytes()
        if headers.damage_of(encoded) or verification.complaint(encoded):
            continue
        passed += 1
        for padded in (False, True):
            augment.training_views(
                tf.constant([encoded]),
                tf.random.stateless_uniform((1, augment.DRAWS), (0, trial)),
                size=8,
                distortion="none",
                padded=padded,
            )
        views.test_views(tf.constant(encoded), size=4, crops=10)
    assert 20 < passed < 180


@pytest.mark.parametrize(
    "encoded",
    [
        pictures.jpeg(channels=1),
        pictures.png(channels=1),
        pictures.png(channels=4),
        pictures.png(),
        pictures.CMYK,
    ],
    ids=["grey", "grey_png", "alpha_png", "png", "cmyk"],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, encoded):
    # Under another suffix, as some files of ImageNet are.
    contents = {f"train/cat/{i}.JPEG": encoded for i in range(4)}
    path = pictures.write_folder(tmp_path, contents)
    dataset = data.load("image_folder", data_dir=path, image_size=8)
    assert not dataset.skipped
    ((x, _),) = batches(dataset, 1)
    assert x.shape == (4, 8, 8, 3)
    assert np.isfinite(x).all()


def test_four_inks_give_the_colour_they_print():
    image = decoding.decoded(tf.constant(pictures.CMYK)).numpy()
    assert abs(image.astype(int) - [240, 120, 30]).max() < 5


def member(name, **changes):
    entry = zipfile.ZipInfo(name)
    for key, value in changes.items():
        setattr(entry, key, value)
    return entry


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (member("../train/cat/a.jpg"), "a name outside the archive"),
        (member("/train/cat/a.jpg"), "a name outside the archive"),
        (member("train\\..\\a.jpg"), "a name outside the archive"),
        (member("train/cat/a.jpg", external_attr=0o120777 << 16), "is a link"),
        (
            member("train/cat/a.jpg", compress_type=zipfile.ZIP_LZMA),
            "neither stored nor deflated",
        ),
    ],
)
def test_archives_that_are_no_plain_images_are_refused(tmp_path, entry, reason):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, pictures.jpeg())
    with pytest.raises(DataError, match=rf"evil.zip is refused.*{reason}"):
        listing.read_tree(path)


def test_an_archive_of_a_later_version_is_named(tmp_path):
    path = pictures.write_zip(tmp_path / "set.zip", pictures.members())
    archives.spoil(path, archives.FROM_THE_FUTURE)
    with pytest.raises(DataError, match=r"set.zip cannot be.*version 9.9"):
        listing.read_tree(path)


def test_an_archive_with_a_name_that_is_no_text_is_named(tmp_path):
    path = pictures.write_zip(
        tmp_path / "set.zip", {"train/k\u00e4fer/a.jpg": pictures.jpeg()}
    )
    name = "k\u00e4fer".encode()
    spoiled = path.read_bytes().replace(name, b"k\xff\xfefer")
    path.write_bytes(spoiled)
    with pytest.raises(DataError, match=r"set.zip cannot be read.*utf-8"):
        listing.read_tree(path)


def test_a_member_that_says_it_is_huge_is_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/cat/a.jpg", bytes(listing.LARGEST_FILE + 1))
    with pytest.raises(
        DataError, match="says that it has more than 67,108,864"
    ):
        listing.read_tree(path)


@pytest.mark.parametrize("said", [0, 1000])
def test_a_member_is_never_inflated_beyond_what_it_says(tmp_path, said):
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/cat/a.jpg", bytes(1_000_000))
    contents = path.read_bytes()
    size = struct.pack("<I", 1_000_000)
    path.write_bytes(contents.replace(size, struct.pack("<I", said)))
    (record,) = listing._in_archive(path)
    assert len(record.read()) <= max(said, 1)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_archive_is_called_damaged(tmp_path, keep):
    path = pictures.write_zip(tmp_path / "set.zip", pictures.members())
    contents = path.read_bytes()
    size = keep if isinstance(keep, int) else int(len(contents) * keep)
    path.write_bytes(contents[:size])
    with pytest.raises(DataError, match=r"set.zip cannot be read"):
        data.load("image_folder", data_dir=path, image_size=8)


@pytest.mark.parametrize("name", ["image_folder", "tfrecords"])
def test_a_source_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(DataError, match=r"nowhere"):
        data.load(name, data_dir=tmp_path / "nowhere", image_size=8)
    with pytest.raises(DataError, match="needs --data_dir"):
        data.load(name, image_size=8)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        data.load("image_folder", data_dir=tmp_path, image_size=8)


def test_training_batches_have_their_shape_range_and_labels(tiny):
    for x, y in batches(tiny, 9):
        assert x.shape == (4, 8, 8, 3)
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        assert x.min() >= -1
        assert x.max() <= 1
        assert set(y) <= {0, 1}


@pytest.mark.parametrize("shuffle", ["all", "within", "shards"])
@pytest.mark.parametrize("start", [1, 4, 7])
def test_a_run_that_resumes_sees_what_it_would_have_seen(tiny, shuffle, start):
    whole = batches(tiny, 10, shuffle=shuffle)
    resumed = batches(tiny, 10 - start, shuffle=shuffle, start_step=start)
    assert_same(resumed, whole[start:])


def test_seeds_and_epochs_differ(tiny):
    (first, _), *_, (next_epoch, _) = batches(tiny, 5)
    ((other, _),) = batches(tiny, 1, seed=4)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, next_epoch)


def test_an_image_is_seen_differently_in_each_epoch(tmp_path):
    contents = {"train/cat/a.jpg": pictures.jpeg(height=40, width=60)}
    path = pictures.write_folder(tmp_path, contents)
    dataset = data.load("image_folder", data_dir=path, image_size=8)
    views = [x for x, _ in batches(dataset, 6, batch_size=1)]
    for i, view in enumerate(views):
        for other in views[:i]:
            assert not np.array_equal(view, other)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_shares_of_a_batch_make_the_batch(tiny, parts):
    whole = batches(tiny, 3)
    shares = [batches(tiny, 3, part=(i, parts)) for i in range(parts)]
    joined = [
        tuple(np.concatenate(column) for column in zip(*step, strict=True))
        for step in zip(*shares, strict=True)
    ]
    for (x, y), (whole_x, whole_y) in zip(joined, whole, strict=True):
        # Version 2.20 rounds the pixels of a single image otherwise.
        error = 1e-6 if tf.__version__.startswith("2.20.") else 0
        np.testing.assert_allclose(x, whole_x, rtol=0, atol=error)
        np.testing.assert_array_equal(y, whole_y)


def test_an_epoch_shows_each_image_once(tiny):
    labels = np.concatenate([y for _, y in batches(tiny, 3, batch_size=6)])
    assert np.bincount(labels).tolist() == [9, 9]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
def test_all_test_images_once_in_order(tiny, batch_size):
    found = list(tiny.test(batch_size=batch_size).as_numpy_iterator())
    x = np.concatenate([x for x, _ in found])
    ((whole, y),) = tiny.test(batch_size=8).as_numpy_iterator()
    np.testing.assert_array_equal(x, whole)
    assert y.tolist() == [0] * 4 + [1] * 4
    assert all(len(x) == batch_size for x, _ in found[:-1])


def test_an_image_that_cannot_be_read_is_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"0123456789")
    record = records.Record("a", str(path), 2, 5)
    monkeypatch.setattr(records, "PAUSES", (0, 0, 0))
    pread, attempts = os.pread, []

    def failing(*given):
        attempts.append(given)
        if len(attempts) < 4:
            raise OSError(5, "Input/output error")
        return pread(*given)

    monkeypatch.setattr(os, "pread", failing)
    assert record.read() == b"23456"
    assert len(attempts) == 4
    attempts.clear()
    monkeypatch.setattr(records, "PAUSES", (0, 0))
    with pytest.raises(OSError, match="Input/output"):
        record.read()
    monkeypatch.undo()
    monkeypatch.setattr(records, "PAUSES", (0,))
    path.write_bytes(b"0123")
    with pytest.raises(OSError, match="it ends after 2 of 5 bytes"):
        record.read()


def test_names_of_nodes_are_no_reason():
    """As TensorFlow has them of what fails within a loop of a data set."""
    said = (
        "Invalid JPEG data, size 480\n\t "
        "[[{{function_node map_while}}{{node map/while/ExtractJpegShape}}]]"
        " [Op:IteratorGetNext] name: "
    )
    assert errors.reason(ValueError(said)) == "Invalid JPEG data, size 480"


def test_images_that_cannot_be_read_later_are_one_line(tiny, monkeypatch):
    def failing(*_):
        raise OSError(5, "Input/output error", "a.jpg")

    monkeypatch.setattr(records.Images, "take", failing)
    monkeypatch.setattr(resident.Pixels, "take", failing)
    message = r"^a batch cannot be read: .*Input/output error: 'a.jpg'$"
    for read in (
        lambda images: images.probe(),
        lambda images: images.test(batch_size=5),
        lambda images: images.train(batch_size=5, seed=0),
    ):
        with pytest.raises(failures.InputError, match=message):
            read(dataclasses.replace(tiny))  # That has read nothing.


def test_other_numbers_of_crops_are_refused(tiny):
    with pytest.raises(ValueError, match=r"1, 10, 144\. Received: crops=7"):
        tiny.test(batch_size=5, crops=7)


@pytest.mark.parametrize("crops", [10, 144])
def test_several_views_of_each_test_image(tiny, crops):
    shapes = [x.shape for x, _ in tiny.test(batch_size=5, crops=crops)]
    assert shapes == [(5, crops, 8, 8, 3), (3, crops, 8, 8, 3)]


def test_a_probe_is_spread_over_the_test_images(tiny):
    ((whole, labels),) = tiny.test(batch_size=8).as_numpy_iterator()
    x, y = tiny.probe(3)
    np.testing.assert_array_equal(x, whole[[0, 3, 7]])
    np.testing.assert_array_equal(y, labels[[0, 3, 7]])
    assert len(tiny.probe()[0]) == 8


def written_small(tmp_path, **sizes):
    """Six training images, of which some have another size."""
    contents = {
        f"train/cat/{i}.png": pictures.png(i, **sizes.get(f"of_{i}", {}))
        for i in range(6)
    }
    return pictures.write_folder(tmp_path, contents)


def test_small_images_of_one_size_are_kept_decoded(tmp_path, monkeypatch):
    path = written_small(tmp_path)
    dataset = data.load("image_folder", data_dir=path, image_size=8)
    first = batches(dataset, 3)
    shutil.rmtree(path / "train")
    assert_same(batches(dataset, 3), first)
    monkeypatch.setattr(resident, "CHUNK", 4)
    monkeypatch.setattr(resident, "LARGEST", 6 * 12 * 16 * 3)
    again = data.load(
        "image_folder", data_dir=written_small(tmp_path), image_size=8
    )
    assert_same(batches(again, 3), first)


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [
        ({}, 6 * 12 * 16 * 3 - 1),
        ({"of_1": {"height": 13}}, 2**30),
        ({"of_5": {"width": 8, "height": 24}}, 2**30),
    ],
)
def test_others_are_decoded_at_each_use(tmp_path, monkeypatch, sizes, largest):
    path = written_small(tmp_path, **sizes)
    options = {"data_dir": path, "image_size": 8}
    usual = batches(data.load("image_folder", **options), 2)
    monkeypatch.setattr(resident, "LARGEST", largest)
    monkeypatch.setattr(resident, "CHUNK", 4)
    dataset = data.load("image_folder", **options)
    assert_same(batches(dataset, 2), usual)
    shutil.rmtree(path / "train")
    with pytest.raises(tf.errors.OpError, match="No such file"):
        batches(dataset, 2)


def test_for_more_images_than_fit_no_memory_is_asked(tmp_path):
    """Even an array that is never filled may be refused."""
    path = tmp_path / "a.png"
    path.write_bytes(pictures.png())
    record = records.Record("a.png", str(path), 0, path.stat().st_size)
    images = records.Images(Repeated([record]), np.zeros(1, np.int32))
    assert resident.kept(images) is images


def test_an_unknown_distortion_is_refused(tiny):
    with pytest.raises(ValueError, match=r"^distortion must be.*ortion=Weak$"):
        tiny.train(batch_size=4, seed=0, distortion="Weak")


def test_a_batch_larger_than_the_data_is_refused(tiny):
    with pytest.raises(ValueError, match=r"<= 18.*batch_size=19"):
        tiny.train(batch_size=19, seed=0)


@pytest.mark.parametrize("name", ["cifar10", "image_folder", "tfrecords"])
@pytest.mark.parametrize("size", [0, -1])
def test_images_have_a_size(tmp_path, name, size):
    with pytest.raises(
        ValueError, match=rf"^image_size must be >= 1.*image_size={size}$"
    ):
        data.load(name, data_dir=tmp_path, image_size=size)


@pytest.mark.parametrize("name", ["image_folder", "tfrecords"])
def test_images_without_a_size_of_their_own_need_one(tmp_path, name):
    with pytest.raises(ValueError, match=r"Received: image_size=None$"):
        data.load(name, data_dir=tmp_path)


def cifar(count=1):
    classes = [f"class_{i}" for i in range(10)]
    return pictures.members(
        train=count, test=1, classes=classes, height=32, width=32
    )


def test_cifar10_is_found_by_its_archive_or_its_folder(tmp_path):
    contents = cifar()
    archive = pictures.write_zip(tmp_path / "cifar10-jpeg.zip", contents)
    folder = pictures.write_folder(tmp_path / "images", contents)
    found = [
        data.load("cifar10", data_dir=path, image_size=32)
        for path in (tmp_path, archive, folder)
    ]
    for dataset in found:
        assert (dataset.name, dataset.classes) == ("cifar10", 10)
        assert_same(batches(dataset, 2), batches(found[0], 2))


def test_cifar10_has_a_size_of_its_own(tmp_path):
    path = pictures.write_zip(tmp_path / "cifar10-jpeg.zip", cifar())
    dataset = data.load("cifar10", data_dir=path)
    assert dataset.input_shape == (32, 32, 3)
    ((x, _),) = dataset.test(batch_size=10).as_numpy_iterator()
    assert x.shape == (10, 32, 32, 3)


def test_cifar10_has_ten_classes(tmp_path):
    path = pictures.write_folder(tmp_path, pictures.members())
    with pytest.raises(DataError, match=r"ten classes.*Received: 2"):
        data.load("cifar10", data_dir=path, image_size=32)


def test_cifar10_from_keras_keeps_its_pixels(tmp_path, monkeypatch):
    import keras

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (20, 32, 32, 3), np.uint8)
    y = np.arange(20).reshape(20, 1) % 10
    downloads = []

    def load_data():
        downloads.append(1)
        return (x, y), (x[10:], y[10:])

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for _ in range(2):
        dataset = data.load("cifar10", image_size=32)
        ((images, labels),) = dataset.test(batch_size=10).as_numpy_iterator()
        assert labels.tolist() == list(range(10))
        np.testing.assert_allclose((images + 1) * 127.5, x[10:], atol=1e-3)
    assert len(downloads) == 1


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    import keras

    def fail():
        raise Exception("URL fetch failure: no network")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fail)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"no network.*--data_dir"):
        data.load("cifar10", image_size=32)


@pytest.mark.real_data
def test_real_cifar10(data_dir):
    dataset = data.load("cifar10", data_dir=data_dir, image_size=32)
    assert (dataset.train_examples, dataset.test_examples) == (50_000, 10_000)
    assert not dataset.skipped
    x, y = dataset.probe(1000)
    assert np.bincount(y).tolist() == [100] * 10
    np.testing.assert_allclose(
        (x.mean((0, 1, 2)) + 1) / 2, [0.4913, 0.4821, 0.4465], atol=0.01
    )


@pytest.mark.real_data
def test_real_tiny_imagenet(data_dir):
    dataset = data.load(
        "image_folder",
        data_dir=data_dir / "tiny-imagenet-50.zip",
        image_size=64,
    )
    assert (dataset.train_examples, dataset.test_examples) == (25_000, 2500)
    assert dataset.classes == 50
    assert not dataset.skipped
