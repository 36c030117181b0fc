# SPDX-License-Identifier: Apache-2.0
"""Swaps Keras' batch normalization for ours in any model, and back."""

import inspect
from collections.abc import Collection
from typing import Any, Literal

import keras
import numpy as np

from keras_bn import arguments, copying, structure
from keras_bn.layer import BatchNormalization

Layer = Any  # keras.layers.Layer is untyped for mypy.

_CLASSES = {
    "keras_bn": BatchNormalization,
    "keras": keras.layers.BatchNormalization,
}
_PARAMETERS = inspect.signature(BatchNormalization).parameters
_OPTIONS = {*_PARAMETERS, "name", "dtype", "trainable"} - {"kwargs"}
# Before Keras 3.14 its class had no renorm.
_OUR_OPTIONS = tuple(
    parameter
    for name, parameter in _PARAMETERS.items()
    if name not in inspect.signature(_CLASSES["keras"]).parameters
)


def convert(
    model: keras.Model,
    *,
    to: Literal["keras_bn", "keras"] = "keras_bn",
    **layer_options: Any,
) -> keras.Model:
    """Copies a model with its BN layers made anew, as ours or as Keras'.

    Weights, statistics, configuration, names, `trainable` and sharing carry
    over, so that predictions stay the same. BN layers in nested models and in
    attributes of other layers are converted too. Subclasses of either BN layer
    stay as they are.

    Args:
        model: A built model of any kind.
        to: `"keras_bn"` or `"keras"`: the class that every BN layer gets.
        **layer_options: Arguments of that class that override the layers'
            own, such as `virtual_batch_size=32`. Weights carry over by name.
            For `"keras"`, options that only our class has may be given, with
            their defaults. If `moving_average="cumulative"` is new to a layer,
            its statistics count as based on no batch: they serve until the
            first training batch, from which the mean starts anew.

    Returns:
        A new model, not compiled; `model` is untouched.

    Raises:
        ValueError: If `to` is unknown, the model is not built, an option does
            not exist, or a layer uses an option that Keras' class lacks; give
            that option its default in `layer_options` to drop it.
    """
    made_by = _CLASSES[arguments.one_of("to", to, tuple(_CLASSES))]
    structure.require_built(model)
    _require_known(layer_options)
    replacements = {
        # Not from_config, which hides what is wrong with an option.
        layer: made_by(**_config(layer, made_by, layer_options))
        for layer in structure.batch_normalizations(model)
    }
    converted = copying.copy_model(model, replacements)
    for old, new in replacements.items():
        new.trainable = old.trainable
        _carry_over(old, new)
        if "trainable" in layer_options:
            new.trainable = layer_options["trainable"]
    return converted


def _require_known(options: Collection[str]) -> None:
    """Raises `ValueError` for an option that our class does not have."""
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(
                "layer_options must be arguments of BatchNormalization. "
                f"Received: {name}"
            )


def _config(
    layer: Layer, made_by: type[Layer], options: dict[str, Any]
) -> dict[str, Any]:
    """The arguments that `layer` was made with, overridden by `options`.

    Objects are passed on as they are, because some have no configuration. Only
    an activation that is a layer, with weights of its own, is made anew.
    """
    ours = isinstance(layer, BatchNormalization)
    made_with = inspect.signature(_CLASSES["keras_bn" if ours else "keras"])
    names = [n for n in made_with.parameters if n != "kwargs"]
    names += ["name", "trainable", "activity_regularizer"]
    config = {name: getattr(layer, name) for name in names}
    config["dtype"] = layer.dtype_policy
    if isinstance(config.get("activation"), keras.layers.Layer):
        config["activation"] = keras.activations.serialize(layer.activation)
    config.update(options)
    if made_by is keras.layers.BatchNormalization:
        _drop_our_options(layer, config)
    return config


def _drop_our_options(layer: Layer, config: dict[str, Any]) -> None:
    axis = config["axis"]
    if isinstance(axis, tuple | list) and len(axis) == 1:
        config["axis"] = axis[0]
    refused = {} if isinstance(config["axis"], int) else {"axis": axis}
    for option in _OUR_OPTIONS:
        value = config.pop(option.name, option.default)
        if value != option.default:
            refused[option.name] = value
    if refused:
        name, value = next(iter(refused.items()))
        value = getattr(value, "__name__", value)
        raise ValueError(
            f"keras.layers.BatchNormalization allows no such {name}. "
            f"Received: {name}={value} in layer {layer.name}"
        )


def _carry_over(old: Layer, new: Layer) -> None:
    values = {weight.name: np.asarray(weight) for weight in old.weights}
    renorm = [getattr(layer, "renorm", False) for layer in (old, new)]
    if renorm == [False, True]:
        # Corrections begin with what inference normalizes with.
        mean, variance = values["moving_mean"], values["moving_variance"]
        values["renorm_mean"] = mean
        values["moving_stddev"] = (variance + new.epsilon) ** 0.5
        values["renorm_stddev"] = values["moving_stddev"]
    for weight in new.weights:
        if weight.name in values:
            structure.require_fits(weight, values[weight.name], new)
            weight.assign(values[weight.name])
            if weight.name in ("gamma", "beta"):
                weight.trainable = getattr(old, weight.name).trainable
