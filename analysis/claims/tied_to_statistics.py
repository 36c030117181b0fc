# SPDX-License-Identifier: Apache-2.0
"""Claim 10: a network trained with BN is tied to its training statistics.

At inference it normalizes with the moments of its training data, which are
wrong for data from another domain. Statistics estimated on the new data,
without labels (AdaBN, arXiv 1603.04779), undo a change only if it scales each
pre-activation by a factor > 0 and shifts it. A drop in accuracy alone is no
evidence against the statistics, as it also happens without BN; the evidence is
the part of it that new statistics restore.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_bn
from analysis.claims import training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.figures import domains

#: Labelled examples of the target to fine-tune on, steps, and learning rate.
LABELLED, STEPS, RATE = 100, 200, 0.1
WAYS = ("without BN", "source", "target", "tuned")

DOMAINS: dict[str, Callable[[Any, np.random.Generator], Any]] = {
    "contrast": lambda x, _: 0.4 + 0.2 * x,
    "noise": lambda x, rng: x + rng.normal(0, 0.4, x.shape),
    "inverted": lambda x, _: 1 - x,
}


def measure(setting: Setting) -> Result:
    """Test accuracy in each domain, for each of `WAYS`."""
    found = accuracies(setting)
    figures = {
        f"{domain}: {way}": value
        for domain, values in found.items()
        for way, value in zip(WAYS, values, strict=True)
    }
    return Result(
        figures=figures,
        note="noise is no scale and shift, and inversion turns the sign of "
        "every pre-activation: no statistics undo them, labels are needed",
        draw=lambda: domains.figure(found),
    )


def accuracies(setting: Setting) -> dict[str, list[float]]:
    """Test accuracies by domain, in the order of `WAYS`."""
    plain = setting.runs.model(training.recipe(setting, norm="none"))
    recipe = training.recipe(setting)
    model = setting.runs.model(recipe)
    dataset = setting.runs.dataset(recipe.dataset)
    estimate(model, dataset.x_train, recipe.batch_size)
    start = model.get_weights()
    found = {}
    same = {"clean": lambda x, _: x}
    for name, change in {**same, **DOMAINS}.items():
        rng = np.random.default_rng(setting.seed)
        x_train, x_test = (
            change(x, rng).astype(np.float32)
            for x in (dataset.x_train, dataset.x_test)
        )
        found[name] = [training.accuracy(plain, x_test, dataset.y_test)]
        model.set_weights(start)
        found[name].append(training.accuracy(model, x_test, dataset.y_test))
        estimate(model, x_train, recipe.batch_size)
        found[name].append(training.accuracy(model, x_test, dataset.y_test))
        tune(model, x_train[:LABELLED], dataset.y_train[:LABELLED])
        estimate(model, x_train, recipe.batch_size)
        found[name].append(training.accuracy(model, x_test, dataset.y_test))
    return found


def estimate(model: keras.Model, x: Any, batch_size: int) -> None:
    """Gives the network the population statistics of `x`."""
    keras_bn.estimate_population_statistics(
        model, x, batch_size=batch_size, verbose=0
    )


def tune(model: keras.Model, x: Any, y: Any) -> None:
    """Trains on a few labelled examples, as one batch."""
    model.compile(
        keras.optimizers.SGD(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(
        np.concatenate([x] * STEPS),
        np.concatenate([y] * STEPS),
        batch_size=len(x),
        shuffle=False,
        verbose=0,
    )


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    clean = figures["clean: source"]
    return (
        figures["contrast: source"] < clean - 0.03
        and figures["contrast: without BN"]
        < figures["clean: without BN"] - 0.03
        and figures["contrast: target"] > clean - 0.01
        and figures["noise: target"] < clean - 0.03
        and figures["inverted: target"] < clean - 0.03
        and figures["inverted: tuned"] > figures["inverted: target"]
    )


CLAIM = Claim(
    number=10,
    title="a trained network is tied to its training statistics",
    section="3.1",
    expected="less contrast costs accuracy with BN and without; statistics of "
    "the target restore it (.01), as they do not with noise or inversion (.03)",
    measure=measure,
    holds=holds,
    trains=True,
)
