# SPDX-License-Identifier: Apache-2.0
"""Claim 13: batch normalization brings singular values near 1. Not seen.

Section 3.3 conjectures that all singular values of a layer's Jacobian are close
to 1, which preserves the size of gradients. For each block of the MLP, at
inference with population statistics, two figures are measured: the mean square
of the singular values, which is 1 if they are 1 on average, and the root mean
square of (sigma^2 - 1), which is 0 only if all are 1. A deep ReLU network at
initialization is a case known in closed form: by Yang et al. 2019 (arXiv
1902.08129), BN makes squared gradients grow by a factor of
pi / (pi - 1) = 1.467 per layer, for large batches.
"""

import math

import keras
import numpy as np

import keras_bn
from analysis import autodiff, structure
from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.measures import gradients
from analysis.measures.jacobian import jacobian_spectrum
from keras_bn import models
from keras_bn.recipes import Recipe

#: Of the deep network: layers, units, examples in the batch.
DEPTH, WIDTH, BATCH = 20, 256, 256
SEEDS = 6
EXAMPLES = 20


def measure(setting: Setting) -> Result:
    """Spectra of the blocks with and without BN, and the deep network."""
    figures: dict[str, float] = {}
    for norm, name in training.SIDES.items():
        recipe = training.recipe(setting, norm=norm)
        networks = {
            "untrained": setting.runs.untrained(recipe),
            "trained": setting.runs.model(recipe),
        }
        for when, model in networks.items():
            square, distance = blocks(setting, recipe, model)
            figures[f"mean square, {when}, {name}"] = square
            figures[f"distance from all 1, {when}, {name}"] = distance
    growth = [growth_per_layer(setting.seed + i) for i in range(SEEDS)]
    for name, value in (
        ("mean", scalars.mean(growth)),
        ("smallest", min(growth)),
        ("largest", max(growth)),
    ):
        figures[f"squared gradient per layer, ReLU, {name}"] = value
    return Result(
        figures=figures,
        note="on average values are nearer to 1 with BN, but in training they "
        "spread widely around it; with ReLU gradients grow",
    )


def blocks(
    setting: Setting, recipe: Recipe, model: keras.Model
) -> tuple[float, float]:
    """Mean square (geometric mean over blocks), and distance from all 1."""
    dataset = setting.runs.dataset(recipe.dataset)
    if recipe.norm != "none":
        keras_bn.estimate_population_statistics(
            model, dataset.x_train, batch_size=recipe.batch_size, verbose=0
        )
    found = structure.blocks(model)
    inputs = autodiff.capture(
        model, [block.input for block in found], dataset.x_test[:EXAMPLES]
    )()
    spectra = [jacobian_spectrum(block, inputs[block.input]) for block in found]
    squares = [np.mean(spectrum.mean_square) for spectrum in spectra]
    return (
        float(np.exp(np.mean(np.log(squares)))),
        scalars.mean(np.mean(each.isometry_distance) for each in spectra),
    )


def growth_per_layer(seed: int) -> float:
    """Factor by which squared gradients grow per layer, going backward."""
    keras.utils.set_random_seed(seed)
    model = models.mlp(
        input_size=WIDTH,
        width=WIDTH,
        depth=DEPTH,
        activation="relu",
        weight_stddev=math.sqrt(2 / WIDTH),
        seed=seed,
    )
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    y = rng.integers(0, 10, BATCH)
    weights = autodiff.arrays(model.trainable_variables)
    _, found = autodiff.loss_and_gradients(model, x, y)(weights)
    kernels = [g for g in found if g.shape == (WIDTH, WIDTH)]
    squares = [gradients.norm([kernel]) ** 2 for kernel in kernels]
    # Without the layers near the ends, whose inputs and outputs differ.
    slope = np.polyfit(range(DEPTH - 6), np.log(squares[3:-3]), 1)[0]
    return float(np.exp(-slope))


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return mean_squares_hold(figures) and all(
        figures[f"distance from all 1, {when}, with BN"]
        < figures[f"distance from all 1, {when}, without BN"]
        for when in ("untrained", "trained")
    )


def mean_squares_hold(figures: Figures) -> bool:
    """Whether mean squares are nearer to 1 with BN, which was seen."""

    def away(when: str, side: str) -> float:
        return abs(math.log(figures[f"mean square, {when}, {side}"]))

    return all(
        away(when, "with BN") < away(when, "without BN")
        for when in ("untrained", "trained")
    )


CLAIM = Claim(
    number=13,
    title="singular values near 1",
    section="3.3",
    expected="with BN nearer to 1 than without, before and after training: "
    "the mean square, and the values one by one (distance from all being 1)",
    measure=measure,
    holds=holds,
    not_seen=mean_squares_hold,
    trains=True,
)
