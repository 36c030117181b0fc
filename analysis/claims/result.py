# SPDX-License-Identifier: Apache-2.0
"""What a claim returns, and what it is measured with."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from analysis import autodiff
from keras_bn import data, ops, training
from keras_bn.recipes import Recipe

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How thoroughly to measure.

    Attributes:
        full: The long version: more steps, more seeds.
        seed: Seed of everything that is drawn.
        data_dir: Folder of `mnist.npz`; `None` takes the bundled digits.
    """

    full: bool = False
    seed: int = 0
    data_dir: str | None = None

    @property
    def dataset(self) -> str:
        """Name of the data set to train on."""
        return "mnist" if self.data_dir else "digits"

    def steps(self, quick: int, full: int) -> int:
        """Training steps."""
        return full if self.full else quick

    @property
    def seeds(self) -> range:
        """Seeds to repeat an experiment with."""
        return range(self.seed, self.seed + (5 if self.full else 1))


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        measured: Figures by name.
        holds: Whether the claim, as worded, holds.
        note: What else is to be said, above all where it disagrees with the
            paper.
    """

    measured: Mapping[str, float]
    holds: bool
    note: str = ""


def draw(settings: Settings, *shape: int) -> Array:
    """Values of mean 3 and standard deviation 2."""
    rng = np.random.default_rng(settings.seed)
    return 3.0 + 2.0 * rng.standard_normal(shape)


def normalized(x: Any, *, epsilon: float = 0.0) -> Any:
    """`[m, features]` normalized per feature, differentiable."""
    return ops.batch_norm(
        keras.ops.convert_to_tensor(x), axes=0, epsilon=epsilon
    )[0]


def pulled_back(
    function: Callable[[Any], Any], x: Array, cotangent: Array
) -> Array:
    """The gradient at `x` of `sum(cotangent * function(x))`."""
    products = autodiff.Products(function)
    return array(products.backward(cotangent, autodiff.tensor(x)))


def array(tensor: Any) -> Array:
    """As float64."""
    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float64)


@functools.cache
def load(settings: Settings) -> Any:
    """The data set to train on."""
    return data.load(settings.dataset, data_dir=settings.data_dir)


def recipe(settings: Settings, *, steps: int, **changes: Any) -> Recipe:
    """The MLP of section 4.1, with some fields changed."""
    return Recipe(
        dataset=settings.dataset,
        seed=settings.seed,
        steps=steps,
        evaluate_every=min(steps, 100),
        measures=(),
    ).replace(**changes)


@functools.lru_cache(maxsize=8)
def train(
    settings: Settings, chosen: Recipe
) -> tuple[keras.Model, training.Result]:
    """Model and result of a recipe; one training for all who ask."""
    return training.run(chosen, load(settings), progress=False)


def first_step_at(result: training.Result, accuracy: float) -> float:
    """First evaluated step of that test accuracy, infinite if there is none."""
    steps = (
        e["step"] for e in result.evaluations if e["val_accuracy"] >= accuracy
    )
    return next(steps, float("inf"))


def path(data_dir: str | None) -> str | None:
    """As a name that settings can be compared by."""
    return None if data_dir is None else str(Path(data_dir))
