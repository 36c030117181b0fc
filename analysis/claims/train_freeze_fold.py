# SPDX-License-Identifier: Apache-2.0
"""Claim 9: Algorithm 2 as a whole: train, freeze, fold.

With population statistics the transform is a fixed linear map, which can be
"composed with" the layer before it. The result is a network without BN that
makes the same predictions.
"""

import keras

import keras_bn
from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Figures, Result, Setting
from keras_bn import structure


def measure(setting: Setting) -> Result:
    """Logits and labels on the test examples, before and after folding."""
    recipe = training.recipe(setting)
    dataset = setting.runs.dataset(recipe.dataset)
    model = setting.runs.model(recipe)

    def accuracy(model: keras.Model) -> float:
        return training.accuracy(model, dataset.x_test, dataset.y_test)

    figures = {"accuracy with moving averages": accuracy(model)}
    keras_bn.estimate_population_statistics(
        model, dataset.x_train, batch_size=recipe.batch_size, verbose=0
    )
    folded = keras_bn.fold(model)
    before, after = (
        each.predict(dataset.x_test, batch_size=500, verbose=0)
        for each in (model, folded)
    )
    figures |= {
        "accuracy with population statistics": accuracy(model),
        "accuracy folded": accuracy(folded),
        "BN layers trained": float(len(structure.batch_normalizations(model))),
        "BN layers folded": float(len(structure.batch_normalizations(folded))),
        "|change of logits| over the largest": scalars.relative_error(
            after, before
        ),
        "share of same predictions": scalars.mean(
            before.argmax(1) == after.argmax(1)
        ),
    }
    return Result(figures=figures)


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return (
        figures["BN layers trained"] > figures["BN layers folded"] == 0
        and figures["|change of logits| over the largest"] < 1e-5
        and figures["share of same predictions"] >= 0.999
    )


CLAIM = Claim(
    number=9,
    title="Algorithm 2: train, freeze, fold",
    section="3.1",
    expected="the folded network has no BN layer and the same logits (1e-5), "
    "the same labels for 99.9% of the examples",
    measure=measure,
    holds=holds,
    trains=True,
)
