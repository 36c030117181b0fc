# SPDX-License-Identifier: Apache-2.0
"""A recipe in, a compiled model out."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_bn import models
from keras_bn.backend import execution
from keras_bn.dtypes import default_policy
from keras_bn.recipes import Recipe


def build_model(
    recipe: Recipe, *, input_shape: Sequence[int], classes: int
) -> keras.Model:
    """The recipe's model, compiled."""
    policy: Any = keras.config.dtype_policy()
    if recipe.mixed_precision != "none":
        policy = f"mixed_{recipe.mixed_precision}"
    with default_policy(policy):
        make = {"mlp": _mlp, "inception": _inception}[recipe.model]
        model = make(recipe, input_shape, classes)
        each = ["accuracy"]
        model.compile(
            optimizer=keras.optimizers.SGD(
                _learning_rate(recipe), momentum=recipe.momentum
            ),
            loss=[
                keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                for _ in model.outputs
            ],
            loss_weights=[
                execution.AUXILIARY_WEIGHT if i else 1.0
                for i, _ in enumerate(model.outputs)
            ],
            metrics=each if len(model.outputs) == 1 else [each, each],
            # The training loop compiles its steps itself; `fit` on the model
            # runs without XLA.
            jit_compile=False,
        )
    return model


def _mlp(
    recipe: Recipe, input_shape: Sequence[int], classes: int
) -> keras.Model:
    return models.mlp(
        input_size=math.prod(input_shape),
        classes=classes,
        width=int(recipe.width),
        depth=recipe.depth,
        norm=recipe.norm,
        activation=recipe.activation,
        weight_stddev=recipe.weight_stddev,
        dropout=recipe.dropout,
        seed=recipe.seed,
    )


def _inception(
    recipe: Recipe, input_shape: Sequence[int], classes: int
) -> keras.Model:
    return models.inception(
        classes=classes,
        image_size=input_shape[0],
        width=recipe.width,
        norm=recipe.norm,
        activation=recipe.activation,
        table=recipe.table,
        auxiliary_head=recipe.auxiliary_head,
        local_response_normalization=recipe.local_response_normalization,
        per_activation_blocks=recipe.per_activation_blocks,
        initial_weight_scale=recipe.initial_weight_scale,
        dropout=recipe.dropout,
        l2=recipe.l2,
        seed=recipe.seed,
    )


def _learning_rate(recipe: Recipe) -> Any:
    if recipe.learning_rate_decay == 1.0:
        return recipe.learning_rate
    return keras.optimizers.schedules.ExponentialDecay(
        recipe.learning_rate,
        decay_steps=recipe.learning_rate_decay_steps,
        decay_rate=recipe.learning_rate_decay,
        staircase=True,
    )


def trainable_size(model: keras.Model) -> int:
    """The number of trainable weights."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)
