# SPDX-License-Identifier: Apache-2.0
"""A recipe and its data in, steps of training and evaluation out."""

from typing import Any

import keras

from keras_bn.backend import execution, strategies
from keras_bn.data import ArrayDataset
from keras_bn.data.batch_order import BatchOrder
from keras_bn.data.images import ImageDataset
from keras_bn.recipes import Recipe

#: Examples of one evaluation step, for data on the device.
RESIDENT_TEST_BATCH = 1000
#: The same for data streamed to the device, unless a training batch is larger.
STREAMED_TEST_BATCH = 100
Dataset = ArrayDataset | ImageDataset


def make_steps(
    recipe: Recipe, dataset: Dataset, model: keras.Model, strategy: Any
) -> execution.Steps:
    """The steps of a run.

    Args:
        recipe: What to train.
        dataset: The data that it names.
        model: Its model, made within the strategy's scope.
        strategy: Where to train.
    """
    alone = strategies.is_alone(strategy)
    if alone and isinstance(dataset, ArrayDataset):
        order = BatchOrder(
            examples=dataset.train_examples,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
        )
        return execution.ResidentSteps(
            model,
            dataset,
            order.rows,
            capacity=min(recipe.steps_per_execution, recipe.steps),
            jit_compile=recipe.jit_compile,
            test_batch=RESIDENT_TEST_BATCH,
        )
    return execution.StreamedSteps(
        model,
        lambda step, part: training_batches(recipe, dataset, step, part),
        lambda part: dataset.test(
            batch_size=max(STREAMED_TEST_BATCH, recipe.batch_size), part=part
        ),
        strategy=strategy,
        jit_compile=recipe.jit_compile and alone,
    )


def training_batches(
    recipe: Recipe, dataset: Dataset, step: int, part: tuple[int, int]
) -> Any:
    """Batches from a step on: the i-th of n shares, for `part = (i, n)`."""
    options: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "start_step": step,
        "part": part,
    }
    if isinstance(dataset, ArrayDataset):
        return dataset.train(**options)
    return dataset.train(
        distortion=recipe.distortion, shuffle=recipe.shuffle, **options
    )
