# SPDX-License-Identifier: Apache-2.0
"""The folder of the real data, and small data that several tests share."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from hypothesis import settings

from keras_bn.backend import compiling
from keras_bn.backend.algorithm1 import Engine
from keras_bn.data import ArrayDataset
from tests import devices

settings.register_profile(
    "ci", max_examples=200, derandomize=True, deadline=None, database=None
)
settings.register_profile(
    "nightly", max_examples=2000, deadline=None, database=None, print_blob=True
)
settings.load_profile("ci")
devices.compute_exactly()


@pytest.fixture(autouse=True)
def forgotten_shapes():
    """Makes what XLA compiles independent of earlier tests."""
    compiling._SHAPES.clear()


@pytest.fixture
def as_large(monkeypatch):
    """Runs small batches as large ones are run: compiled by XLA."""
    _run_by(Engine.XLA_ON_CPU, monkeypatch)


@pytest.fixture
def as_large_on_a_gpu(monkeypatch):
    """The same with what XLA compiles for a GPU, here on whatever there is."""
    _run_by(Engine.XLA_ON_GPU, monkeypatch)


@pytest.fixture
def as_large_of_unknown_size(monkeypatch):
    """Runs small batches as large ones that XLA does not compile."""
    _run_by(Engine.BLOCKS, monkeypatch)


def _run_by(engine, monkeypatch):
    def chosen(*_, **__):
        return engine if compiling._COMPILING.get() else Engine.PLAIN

    monkeypatch.setattr(compiling, "engine", chosen)


def _data_dir() -> Path:
    named = os.environ.get("KERAS_BN_DATA_DIR")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(named) if named else beside


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real data sets; skips the test if there is none."""
    folder = _data_dir()
    if not (folder / "mnist.npz").exists():
        pytest.skip(
            f"real data sets are absent: no mnist.npz in {folder} "
            "(name their folder with KERAS_BN_DATA_DIR)"
        )
    return folder


@pytest.fixture(scope="session")
def tiny_dataset():
    """Three classes of 16 binary pixels; learnt within a few steps."""
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 2, (3, 16))

    def examples(count):
        labels = rng.integers(0, 3, count)
        flips = rng.random((count, 16)) < 0.1
        pixels = np.where(flips, 1 - prototypes[labels], prototypes[labels])
        return pixels.astype(np.float32), labels.astype(np.int32)

    x_train, y_train = examples(200)
    x_test, y_test = examples(70)
    return ArrayDataset(
        name="tiny",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=3,
    )


@pytest.fixture(scope="session")
def tiny_recipe():
    from keras_bn.recipes import Recipe

    return Recipe(
        width=8,
        batch_size=20,
        steps=60,
        evaluate_every=20,
        measure_every=7,
        checkpoint_every=25,
        steps_per_execution=50,
    )
