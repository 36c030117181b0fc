# SPDX-License-Identifier: Apache-2.0
"""What a model is made of: finds its BN layers, copies it with other layers.

Keras offers no public way to list layers at every depth or to run a functional
graph through other layers without compiling the result; the private names that
this needs stand here and in `keras_bn.folding.graph`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import keras
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.saving.serialization_lib import SafeModeScope

from keras_bn import ops
from keras_bn.layer import BatchNormalization

Layer = Any  # keras.layers.Layer is untyped for mypy.


BATCH_NORMALIZATIONS = (BatchNormalization, keras.layers.BatchNormalization)


def require_built(model: Any) -> None:
    """Raises `ValueError` unless it is a model whose weights are there."""
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
    """The activation inside a BN layer, which Keras' has none of, or `None`."""
    return getattr(norm, "activation", None)


def sublayers(layer: Layer) -> list[Layer]:
    """Every layer inside `layer` at any depth, each once."""
    return list(layer._flatten_layers(include_self=False))


def batch_normalizations(model: Layer) -> list[Layer]:
    """Every BN layer of a model at any depth, each once."""
    return [
        layer for layer in sublayers(model) if is_batch_normalization(layer)
    ]


def copy_model(
    model: keras.Model, replacements: Mapping[Layer, Layer | None]
) -> keras.Model:
    """Copies a model, its weights too, with other layers in some places.

    Functional and sequential models are copied call by call, so that what is
    shared stays shared. Any other layer is copied from its configuration; if
    it holds a layer to replace in an attribute, the copy gets the new one.

    Args:
        model: A built model of any kind.
        replacements: For a layer of it, the unbuilt layer to take its place,
            or `None` to pass its input on. Their weights are left to the
            caller.

    Returns:
        A built model, not compiled. Nothing of `model` is shared or changed.

    Raises:
        ValueError: If a layer makes its sublayers anew when it is built, so
            that they cannot be replaced.
    """
    copier = _Copier(replacements)
    copied = copier.copy(model)
    if not copied.built:
        copied.build_from_config(model.get_build_config())
    copier.transfer_state()
    return copied


class _Copier:
    def __init__(self, replacements: Mapping[Layer, Layer | None]) -> None:
        self._copies: dict[Layer, Layer | None] = dict(replacements)
        self._replaced = frozenset(replacements)
        self._exchanged: list[tuple[Layer, str, list[Layer]]] = []

    def copy(self, layer: Layer) -> Layer:
        """The one copy of a layer or operation of a graph; maybe `None`."""
        if layer not in self._copies:
            self._copies[layer] = self._make(layer)
        return self._copies[layer]

    def transfer_state(self) -> None:
        """Gives the copies the weights and `trainable` of the originals."""
        self._require_exchanged()
        pairs = [
            pair
            for original, copy in self._copies.items()
            if isinstance(copy, keras.layers.Layer)
            and original not in self._replaced
            for pair in self._with_sublayers(original, copy)
        ]
        # Outer layers first: theirs is handed down to all inside.
        for original, copy in reversed(pairs):
            copy.trainable = original.trainable
            state: dict[str, Any] = {}
            original.save_own_variables(state)
            copy.load_own_variables(state)

    def _require_exchanged(self) -> None:
        for holder, name, sublayers in self._exchanged:
            if _layers_in(getattr(holder, name)) != sublayers:
                raise ValueError(
                    "layers inside another must be made before it is built, "
                    "for them to be replaced. Received: "
                    f"{type(holder).__name__} {holder.name}, which makes "
                    f"its {name} in build()"
                )

    def _with_sublayers(
        self, original: Layer, copy: Layer
    ) -> list[tuple[Layer, Layer]]:
        if self._copied_apart(original):
            return [(original, copy)]
        inner = zip(sublayers(original), sublayers(copy), strict=True)
        return [*reversed(list(inner)), (original, copy)]

    def _copied_apart(self, layer: Layer) -> bool:
        """Whether the layers inside are copied one by one."""
        return isinstance(layer, Functional | keras.Sequential) or any(
            inner in self._replaced for inner in sublayers(layer)
        )

    def _make(self, layer: Layer) -> Layer:
        if isinstance(layer, keras.Sequential):
            return self._make_sequential(layer)
        if isinstance(layer, Functional):
            return self._make_functional(layer)
        # What is in memory already needs no guard against foreign code.
        with SafeModeScope(safe_mode=False):
            made = type(layer).from_config(layer.get_config())
        if isinstance(layer, keras.layers.Layer) and self._copied_apart(layer):
            self._exchange_sublayers(layer, made)
        return made

    def _make_sequential(self, model: keras.Sequential) -> keras.Sequential:
        copies = [self.copy(layer) for layer in model.layers]
        layers = [copy for copy in copies if copy is not None]
        if model.built and hasattr(model, "inputs"):
            layers.insert(0, self._input(model.inputs[0]))
        return keras.Sequential(layers, name=model.name)

    def _make_functional(self, model: keras.Model) -> keras.Model:
        inputs = keras.tree.map_structure(self._input, model.input)
        outputs = model._run_through_graph(inputs, call_fn=self._call)
        kind = type(model)
        if not functional_like_constructor(kind):
            kind = keras.Model
        return kind(inputs, outputs, name=model.name)

    def _call(self, layer: Layer, *args: Any, **kwargs: Any) -> Any:
        """Calls the copy of a layer as the layer was called."""
        copy = self.copy(layer)
        if layer not in self._replaced:
            return copy(*args, **kwargs)
        given = inspect.signature(layer.call).bind(*args, **kwargs).arguments
        if copy is None:
            return given["inputs"]
        # What takes its place need not know of `training` and `mask`.
        taken = inspect.signature(copy.call).parameters
        return copy(**{x: given[x] for x in given if x in taken})

    def _input(self, tensor: Any) -> Any:
        return self.copy(tensor._keras_history.operation).output

    def _exchange_sublayers(self, layer: Layer, made: Layer) -> None:
        """Puts copies of its sublayers into a layer just made."""
        for name, value in list(vars(layer).items()):
            if name in _BOOKKEEPING or not _layers_in(value):
                continue
            for stale in _layers_in(getattr(made, name, None)):
                made._tracker.untrack(stale)
            exchanged = keras.tree.map_structure(
                lambda x: self.copy(x) if _layers_in(x) else x, value
            )
            setattr(made, name, exchanged)
            self._exchanged.append((made, name, _layers_in(exchanged)))


#: Where Keras and TensorFlow list what the attributes hold.
_BOOKKEEPING = (
    "_layers",
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_dependency_names",
)


def _layers_in(value: Any) -> list[Layer]:
    flat = keras.tree.flatten(value)
    return [x for x in flat if isinstance(x, keras.layers.Layer)]
