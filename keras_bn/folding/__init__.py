# SPDX-License-Identifier: Apache-2.0
"""Folds BN layers into adjacent linear layers, for inference.

At inference a BN layer is a fixed affine map per feature, and a linear layer
with such a map before or after it is again a linear layer (Ioffe & Szegedy
2015, arXiv 1502.03167, section 3.1): the deployed network needs no BN layers.

    python -m keras_bn.folding in.keras out.keras
"""

import logging
from typing import Any

import keras

from keras_bn import copying, structure
from keras_bn.folding.planning import (
    Decision,
    Edit,
    Plan,
    plan,
    taking_in,
)

__all__ = ["Decision", "Plan", "fold", "plan"]

Layer = Any  # keras.layers.Layer is untyped for mypy.

_logger = logging.getLogger(__name__)


def fold(model: keras.Model) -> keras.Model:
    """Copies a model for inference and folds every BN layer that can be.

    A BN layer is folded into the linear layer before it (Dense, Conv1D, 2D,
    3D and their transposes, DepthwiseConv, SeparableConv, EinsumDense), into
    all of them if they are concatenated, or else into those after it. Pooling
    and layers that do nothing at inference may lie between. This works in
    functional and sequential models, also nested ones. A BN layer with its own
    activation leaves an `Activation` layer of the same name.

    A BN layer that cannot be folded stays as it is.
    `keras_bn.folding.plan(model).decisions` says what becomes of each, and
    why; so does the logger `keras_bn.folding` (level DEBUG).

    Args:
        model: A built model of any kind.

    Returns:
        A new model, not compiled, with the same predictions up to rounding;
        the names of layers stay. `model` is untouched.

    Raises:
        ValueError: If the model is not built.
    """
    planned = plan(model)
    for decision in planned.decisions:
        _logger.debug("%s", decision)
    left = {layer: _what_is_left(layer) for layer in planned.folded}
    remade = {x: _changed(x, edits) for x, edits in planned.edits.items()}
    made = {layer: new for layer, (new, _) in remade.items()}
    folded = copying.copy_model(model, {**left, **made})
    for new, weights in remade.values():
        new.set_weights(weights)
    return folded


def _what_is_left(norm: Layer) -> Layer | None:
    """What takes the place of a BN layer that is folded."""
    activation = structure.activation(norm)
    if activation is None:
        return None
    return keras.layers.Activation(
        activation, name=norm.name, dtype=norm.dtype_policy
    )


def _changed(layer: Layer, edits: list[Edit]) -> tuple[Layer, list[Any]]:
    """A layer that has absorbed maps, not built yet, and its weights."""
    taken = taking_in(layer, edits)
    made = type(layer).from_config(taken.config())
    return made, [w.astype(layer.variable_dtype) for w in taken.weights()]
