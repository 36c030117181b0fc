# SPDX-License-Identifier: Apache-2.0
"""What a model is made of: its BN layers at every depth.

Keras offers no public way to list layers at every depth, or to run a functional
graph through other layers without compiling the result. The private names that
this requires are used only here, in `keras_bn.copying` and in
`keras_bn.folding.graph`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional

from keras_bn import ops
from keras_bn.layer import BatchNormalization

Layer = Any  # keras.layers.Layer is untyped for mypy.


BATCH_NORMALIZATIONS = (BatchNormalization, keras.layers.BatchNormalization)


def require_built(model: Any) -> None:
    """Raises `ValueError` unless it is a Keras model with its weights built."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model. Received: {model}")
    if not model.built:
        raise ValueError(f"model must be built. Received: {model.name}")


def is_batch_normalization(layer: Layer) -> bool:
    """Whether it is our layer or Keras'; a class derived from one is not."""
    return type(layer) in BATCH_NORMALIZATIONS


def gamma(norm: Layer) -> Any:
    """The gamma that a BN layer normalizes with, or `None`."""
    if norm.gamma is not None and getattr(norm, "keeps", None) == "output":
        return ops.away_from_zero(norm.gamma)
    return norm.gamma


def activation(norm: Layer) -> Any:
    """The activation inside a BN layer, or `None`; Keras' layer has none."""
    return getattr(norm, "activation", None)


def sublayers(layer: Layer) -> list[Layer]:
    """Every layer inside `layer` at any depth, each once."""
    return list(layer._flatten_layers(include_self=False))


def batch_normalizations(model: Layer) -> list[Layer]:
    """Every BN layer of a model at any depth, each once."""
    return [
        layer for layer in sublayers(model) if is_batch_normalization(layer)
    ]


@contextlib.contextmanager
def patched(layer: Layer, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute of a layer within the context, untracked by Keras."""
    attributes = layer.__dict__
    had, before = name in attributes, attributes.get(name)
    attributes[name] = value
    try:
        yield
    finally:
        if had:
            attributes[name] = before
        else:
            del attributes[name]


def require_fits(weight: Any, value: Any, layer: Layer) -> None:
    """Raises `ValueError` if a weight of a layer is too narrow for a value."""
    with np.errstate(over="ignore"):
        held = np.asarray(keras.ops.cast(value, weight.dtype))
    if (np.isfinite(value) & ~np.isfinite(held)).any():
        raise ValueError(
            f"{weight.name} must fit into {weight.dtype}. Received: values up "
            f"to {np.abs(value).max():g} in layer {layer.name}"
        )


def has_graph(layer: Layer) -> bool:
    """Whether it is a model that computes exactly its graph of layers."""
    own = (Functional.call, keras.Sequential.call)
    return is_of_layers(layer) and type(layer).call in own


def is_of_layers(layer: Layer) -> bool:
    """Whether it is a functional or sequential model, or of a subclass."""
    return isinstance(layer, Functional | keras.Sequential)
