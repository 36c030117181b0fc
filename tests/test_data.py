# SPDX-License-Identifier: Apache-2.0
import io
import os
import zipfile

import numpy as np
import pytest

from keras_bn import data
from keras_bn.data import batch_order
from keras_bn.data.arrays import ArrayDataset
from keras_bn.data.batch_order import BatchOrder
from keras_bn.data.errors import DataError
from tests import archives

#: Twenty test images of MNIST's form, and their labels 0 to 9.
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
LABELS = np.arange(20) % 10


def write_mnist(folder, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (30, 28, 28), np.uint8),
        "y_train": rng.integers(0, 10, 30).astype(np.uint8),
        "x_test": rng.integers(0, 256, (20, 28, 28), np.uint8),
        "y_test": rng.integers(0, 10, 20).astype(np.uint8),
        **changes,
    }
    arrays = {k: v for k, v in arrays.items() if v is not None}
    np.savez_compressed(folder / "mnist.npz", **arrays)
    return arrays


def test_digits_are_real_balanced_and_always_split_alike():
    digits = data.load("digits")
    assert digits.x_train.shape == (1437, 64)
    assert digits.x_test.shape == (360, 64)
    assert set(np.unique(digits.x_train)) == {0.0, 1.0}
    counts = np.bincount(digits.y_test, minlength=10)
    assert counts.min() >= 34
    assert counts.max() <= 38
    again = data.load("digits")
    np.testing.assert_array_equal(digits.x_test, again.x_test)
    np.testing.assert_array_equal(digits.y_train, again.y_train)


def test_mnist_is_binary_at_half_of_white(tmp_path):
    x = np.zeros((20, 28, 28), np.uint8)
    x[0, 0, :3] = (127, 128, 255)
    arrays = write_mnist(tmp_path, x_test=x)
    mnist = data.load("mnist", data_dir=tmp_path)
    assert mnist.x_test[0, :4].tolist() == [0, 1, 1, 0]
    assert mnist.x_train.dtype == np.float32
    np.testing.assert_array_equal(mnist.y_train, arrays["y_train"])


@pytest.mark.real_data
def test_real_mnist(data_dir):
    mnist = data.load("mnist", data_dir=data_dir)
    assert mnist.x_train.shape == (60_000, 784)
    assert mnist.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(mnist.y_test).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"mnist.npz does not exist.*data_dir"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_file_is_called_damaged(tmp_path, keep):
    write_mnist(tmp_path)
    path = tmp_path / "mnist.npz"
    contents = path.read_bytes()
    size = keep if isinstance(keep, int) else int(len(contents) * keep)
    path.write_bytes(contents[:size])
    with pytest.raises(DataError, match=r"mnist.npz cannot be read"):
        data.load("mnist", data_dir=tmp_path)


def test_pickled_objects_are_refused(tmp_path):
    write_mnist(tmp_path, y_test=np.array([{"evil": 1}] * 20, object))
    with pytest.raises(DataError, match="cannot be read"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "must hold x_train, y_train, x_test, y_test"),
        ({"x_test": IMAGES[:, :9]}, r"Received: x_test \(20, 9, 28\)"),
        ({"x_test": IMAGES / 255}, r"uint8.*\(20, 28, 28\), float64"),
        ({"x_test": IMAGES > 127}, r"uint8.*Received: .*, bool"),
        ({"x_test": IMAGES * 1j}, r"uint8.*Received: .*, complex128"),
        ({"x_test": IMAGES.astype("U3")}, r"uint8.*Received: .*, <U3"),
        ({"y_test": LABELS[:19]}, r"y_test \(19,\)"),
        ({"y_test": LABELS + np.nan}, r"integers. Received: .*, float64"),
        ({"y_test": LABELS > 4}, r"integers. Received: .*, bool"),
        ({"y_test": LABELS.astype("U1")}, r"integers. Received: .*, <U1"),
        ({"y_test": LABELS + 1}, "0 to 9. Received: y_test with 10"),
        ({"y_test": LABELS - 1}, "0 to 9. Received: y_test with -1"),
        ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "Received: 0 examples"),
    ],
)
def test_wrong_contents_are_named(tmp_path, changes, message):
    write_mnist(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (archives.ENCRYPTED, "is encrypted"),
        (archives.FROM_THE_FUTURE, "zip file version 9.9"),
        (archives.OF_UNKNOWN_COMPRESSION, "compression method"),
    ],
)
def test_archives_that_cannot_be_read_are_named(tmp_path, changes, message):
    write_mnist(tmp_path)
    archives.spoil(tmp_path / "mnist.npz", changes)
    with pytest.raises(
        DataError, match=rf"mnist.npz cannot be read.*{message}"
    ):
        data.load("mnist", data_dir=tmp_path)


def test_an_array_that_says_it_is_huge_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": "|u1", "fortran_order": False, "shape": (2**50, 28, 28)},
    )
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w") as archive:
        archive.writestr("x_train.npy", header.getvalue() + bytes(9))
    with pytest.raises(DataError, match=r"mnist.npz cannot be read"):
        data.load("mnist", data_dir=tmp_path)


def test_a_member_that_is_no_array_is_refused(tmp_path):
    write_mnist(tmp_path, x_test=None)
    with zipfile.ZipFile(tmp_path / "mnist.npz", "a") as archive:
        archive.writestr("x_test.npy", "no array")
    with pytest.raises(DataError, match=r"Received: x_test \(\)"):
        data.load("mnist", data_dir=tmp_path)


def test_the_file_itself_may_be_named(tmp_path):
    write_mnist(tmp_path)
    mnist = data.load("mnist", data_dir=tmp_path / "mnist.npz")
    assert mnist.test_examples == 20


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mnist.npz")
    with pytest.raises(DataError, match=r"mnist.npz must be a file"):
        data.load("mnist", data_dir=tmp_path)


def test_a_single_array_is_no_mnist(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    (tmp_path / "mnist.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="cannot be read"):
        data.load("mnist", data_dir=tmp_path)


def test_a_failed_download_says_what_to_do(monkeypatch):
    import keras

    def fail():
        raise Exception("URL fetch failure: no network")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(DataError, match=r"no network.*--data_dir"):
        data.load("mnist")


def test_an_unknown_data_set_is_named():
    with pytest.raises(ValueError, match="Received: dataset=nope"):
        data.load("nope")


def test_unequal_lengths_are_refused():
    x, y = np.zeros((3, 2), np.float32), np.zeros(2, np.int32)
    with pytest.raises(DataError, match="Received: 3 examples, 2 labels"):
        ArrayDataset(
            name="odd", x_train=x, y_train=y, x_test=x, y_test=y, classes=2
        )


def test_each_epoch_is_a_permutation_of_its_own():
    order = BatchOrder(examples=23, batch_size=5, seed=1)
    assert order.steps_per_epoch == 4
    epochs = [order.rows(4 * epoch, 4) for epoch in range(50)]
    for rows in epochs:
        assert len(set(rows.ravel())) == 20
    assert not np.array_equal(epochs[0], epochs[1])
    # What one epoch leaves out, others bring.
    assert set(np.ravel(epochs)) == set(range(23))


@pytest.mark.parametrize(("start", "count"), [(0, 9), (3, 2), (4, 1), (7, 30)])
def test_the_order_depends_on_seed_and_step_alone(start, count):
    whole = BatchOrder(examples=23, batch_size=5, seed=1).rows(0, 40)
    part = BatchOrder(examples=23, batch_size=5, seed=1).rows(start, count)
    np.testing.assert_array_equal(part, whole[start : start + count])
    other = BatchOrder(examples=23, batch_size=5, seed=2).rows(start, count)
    assert not np.array_equal(other, part)


@pytest.mark.parametrize(
    ("shuffle", "rows"),
    [
        ("all", [[8, 6, 3], [4, 2, 6]]),
        ("within", [[5, 8, 6], [0, 3, 2]]),
        ("shards", [[6, 7, 8], [0, 1, 2]]),
    ],
)
def test_a_seed_stands_for_the_same_order_for_ever(shuffle, rows):
    """Else runs would resume with other batches than they began with."""
    order = BatchOrder(
        examples=9, batch_size=3, seed=1, shuffle=shuffle, shard_sizes=(4, 5)
    )
    assert order.rows(2, 2).tolist() == rows


def test_an_unknown_shuffle_is_refused():
    with pytest.raises(ValueError, match=r"all, within, shards.*shuffle=Al$"):
        BatchOrder(examples=23, batch_size=4, seed=0, shuffle="Al")


def test_an_order_takes_no_memory_before_it_is_asked_for():
    order = BatchOrder(examples=10**15, batch_size=10, seed=0)
    assert order.steps_per_epoch == 10**14


@pytest.mark.parametrize("shuffle", ["within", "shards"])
def test_without_files_shards_are_alike_for_every_seed(shuffle, monkeypatch):
    monkeypatch.setattr(batch_order, "SHARD_SIZE", 4)
    orders = [
        BatchOrder(examples=12, batch_size=4, seed=seed, shuffle=shuffle)
        for seed in range(20)
    ]
    shards = {frozenset(rows) for o in orders for rows in o.rows(0, 3).tolist()}
    assert len(shards) == 3
    assert frozenset.union(*shards) == set(range(12))
    assert {0, 1, 2, 3} not in shards


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"<= 23.*batch_size=24"):
        BatchOrder(examples=23, batch_size=24, seed=0)
