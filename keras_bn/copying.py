# SPDX-License-Identifier: Apache-2.0
"""Copies a model, replacing some of its layers."""

import inspect
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
from keras.src.models.functional import functional_like_constructor
from keras.src.saving.serialization_lib import SafeModeScope
from keras.src.utils.python_utils import is_default

from keras_bn import structure
from keras_bn.dtypes import default_policy
from keras_bn.errors import reason

Layer = Any  # keras.layers.Layer is untyped for mypy.


def _kind(model: keras.Model) -> type[keras.Model] | None:
    """The class that builds a model like this one from copies of its layers.

    A class with its own constructor would make other layers: the plain Keras
    class takes its place if predictions stay the same, else `None`.
    """
    kind = type(model)
    if isinstance(model, keras.Sequential):
        takes_layers = kind.__init__ is keras.Sequential.__init__
        plain = keras.Sequential
    else:
        takes_layers = functional_like_constructor(kind)
        plain = keras.Model
    if takes_layers:
        return kind
    return plain if structure.has_graph(model) else None


def copy_model(
    model: keras.Model, replacements: Mapping[Layer, Layer | None]
) -> keras.Model:
    """Copies a model and its weights, replacing some of its layers.

    Functional and sequential models are copied call by call, so that shared
    layers stay shared; a subclass whose constructor does not take layers
    becomes a plain model. Any other layer is copied from its configuration; if
    it holds a layer to replace in an attribute, the copy gets the new one.

    Args:
        model: A built model of any kind.
        replacements: Maps a layer of the model to the unbuilt layer that takes
            its place, or to `None` to pass its input on. The caller sets the
            weights of the new layers.

    Returns:
        A built model, not compiled. It shares nothing with `model`, which is
        unchanged.

    Raises:
        ValueError: If a layer cannot be made from its configuration, or makes
            the layers inside it in a way that prevents replacing them.
    """
    copier = _Copier(replacements)
    copied = copier.copy(model)
    _build(copied, model)
    copier.transfer_state()
    return copied


class _Copier:
    def __init__(self, replacements: Mapping[Layer, Layer | None]) -> None:
        self._copies: dict[Layer, Layer | None] = dict(replacements)
        self._replaced = frozenset(replacements)
        self._exchanged: list[tuple[Layer, str, list[Layer]]] = []
        self._holders: list[Layer] = []

    def copy(self, layer: Layer) -> Layer:
        """The only copy of a graph's layer or operation; may be `None`."""
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
        # Outer layers first: they hand `trainable` down to all inside.
        for original, copy in reversed(pairs):
            _build(copy, original)
            copy.trainable = original.trainable
            _transfer_variables(original, copy)
            _transfer_assets(original, copy)
            # A model without shapes to build from has only its layers built.
            copy.built = original.built

    def _require_exchanged(self) -> None:
        for holder in self._holders:
            for layer in holder._layers:
                if layer not in self._copies:
                    raise ValueError(
                        "layers inside another must be in its attributes, or "
                        "in lists, tuples or dictionaries there, for them to "
                        f"be replaced. Received: {layer.name} in "
                        f"{type(holder).__name__} {holder.name}"
                    )
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
        _require_order(original)
        inner = zip(
            structure.sublayers(original),
            structure.sublayers(copy),
            strict=True,
        )
        return [*reversed(list(inner)), (original, copy)]

    def _copied_apart(self, layer: Layer) -> bool:
        """Whether the layers inside are copied one by one."""
        if structure.is_of_layers(layer):
            return _kind(layer) is not None
        return self._holds_replaced(layer)

    def _holds_replaced(self, layer: Layer) -> bool:
        return any(
            inner in self._replaced for inner in structure.sublayers(layer)
        )

    def _make(self, layer: Layer) -> Layer:
        kind = _kind(layer) if structure.is_of_layers(layer) else None
        if kind and issubclass(kind, keras.Sequential):
            return self._make_sequential(layer, kind)
        if kind:
            return self._make_functional(layer, kind)
        holds = isinstance(layer, keras.layers.Layer) and self._holds_replaced(
            layer
        )
        if holds and structure.is_of_layers(layer):
            raise ValueError(
                "a model with a call and a constructor of its own cannot be "
                "copied with other layers. Received: "
                f"{type(layer).__name__} {layer.name}"
            )
        made = _from_config(layer)
        if holds:
            self._exchange_sublayers(layer, made)
        return made

    def _make_sequential(
        self, model: keras.Sequential, kind: type[keras.Sequential]
    ) -> keras.Sequential:
        copies = [self.copy(layer) for layer in model.layers]
        layers = [copy for copy in copies if copy is not None]
        if model.built and hasattr(model, "inputs"):
            layers.insert(0, self._input(model.inputs[0]))
        return kind(layers, name=model.name)

    def _make_functional(
        self, model: keras.Model, kind: type[keras.Model]
    ) -> keras.Model:
        inputs = keras.tree.map_structure(self._input, model.input)
        outputs = model._run_through_graph(
            inputs,
            operation_fn=lambda layer: layer,  # Needed before Keras 3.14.
            call_fn=self._call,
        )
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
        self._holders.append(layer)
        for name, value in list(vars(layer).items()):
            if name in _BOOKKEEPING or not _layers_in(value):
                continue
            for stale in _layers_in(getattr(made, name, None)):
                made._tracker.untrack(stale)
            exchanged = _mapped(self.copy, value)
            setattr(made, name, exchanged)
            self._exchanged.append((made, name, _layers_in(exchanged)))


#: Arguments of every layer.
_OF_EVERY_LAYER = {"name", "trainable", "dtype"}
#: Attributes in which Keras and TensorFlow list what the others hold.
_BOOKKEEPING = (
    "_compiled_trainable_state",
    "_layers",
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_dependency_names",
)


def _layers_in(value: Any) -> list[Layer]:
    """The layers in nested lists, tuples and dictionaries."""
    if isinstance(value, keras.layers.Layer):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list | tuple):
        return []
    return [layer for part in parts for layer in _layers_in(part)]


def _mapped(function: Callable[[Layer], Any], value: Any) -> Any:
    """A copy of nested containers with `function` applied to each layer."""
    if isinstance(value, keras.layers.Layer):
        return function(value)
    # Keras and TensorFlow wrap these. (Their own functions for nested
    # structures would sort the keys.)
    if isinstance(value, Mapping):
        return {key: _mapped(function, part) for key, part in value.items()}
    if not isinstance(value, list | tuple):
        return value
    parts = [_mapped(function, part) for part in value]
    kind = type(getattr(value, "__wrapped__", value))
    if hasattr(kind, "_make"):
        return kind._make(parts)
    return tuple(parts) if isinstance(value, tuple) else parts


def _require_order(layer: Layer) -> None:
    """Refuses sets, which a copy has in another order."""
    for holder in (layer, *structure.sublayers(layer)):
        for name, value in vars(holder).items():
            if isinstance(value, set) and len(_layers_in(list(value))) > 1:
                raise ValueError(
                    "layers inside another must be in an order. Received: the "
                    f"set {name} of {type(holder).__name__} {holder.name}"
                )


def _from_config(layer: Layer) -> Layer:
    """A layer or operation made from its configuration, without weights.

    Raises:
        ValueError: If that fails, for instance because the configuration
            lacks arguments of the constructor.
    """
    kind = type(layer)
    _, *parameters = inspect.signature(kind.__init__).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    variable = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    names = {p.name for p in parameters if p.kind not in variable}
    # Keras passes these to every constructor, whether or not it takes them.
    as_keras_does = kind.from_config.__module__.startswith("keras.")
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds or not as_keras_does
    refused = () if takes_any else _OF_EVERY_LAYER - names
    try:
        if isinstance(layer, keras.Model) and is_default(layer.get_config):
            _require_no_arguments(names - _OF_EVERY_LAYER)
        config = layer.get_config()
        policy = getattr(layer, "dtype_policy", keras.config.dtype_policy())
        # What is in memory already needs no guard against foreign code.
        with SafeModeScope(safe_mode=False), default_policy(policy):
            made = kind.from_config(
                {k: v for k, v in config.items() if k not in refused}
            )
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "layers must be such that from_config(get_config()) makes them "
            f"again. Received: {kind.__name__} {layer.name}: {reason(error)}"
        ) from error
    if "name" in refused:
        made.name = layer.name
    return made


def _require_no_arguments(names: Collection[str]) -> None:
    """Raises `ValueError` for arguments that Keras assumes were defaults."""
    if names:
        raise ValueError(
            "without a get_config() of its own nobody knows what its "
            f"{', '.join(sorted(names))} was"
        )


def _build(copy: Layer, original: Layer) -> None:
    """Creates the weights of a copy, if the original's shapes are known."""
    if not copy.built:
        with warnings.catch_warnings():
            # Layers inside are built separately.
            warnings.filterwarnings("ignore", ".*had a build config, but")
            copy.build_from_config(original.get_build_config())


def _transfer_variables(original: Layer, copy: Layer) -> None:
    """Gives a copy the weights of a layer, without those of layers inside.

    Raises:
        ValueError: If the copy has weights of other shapes.
    """
    ours, theirs = _own_variables(copy), _own_variables(original)
    names = [variable.name for variable in theirs]
    by_name = {variable.name: variable for variable in ours}
    # A layer quantized after it was built has them in another order.
    if len({*names}) == len(names) and {*names} == {*by_name}:
        ours = [by_name[name] for name in names]
    made = [tuple(variable.shape) for variable in ours]
    wanted = [tuple(variable.shape) for variable in theirs]
    if made != wanted:
        raise ValueError(
            "layers must have the same weights when built again, from "
            f"{original.get_build_config()}. Received: "
            f"{type(original).__name__} {original.name}, with weights of "
            f"shape {wanted} and then {made}"
        )
    state: dict[str, Any] = {}
    original.save_own_variables(state)
    copy.load_own_variables(state)
    for new, old in zip(ours, theirs, strict=True):
        if getattr(original, "lora_enabled", False):
            new.assign(old)  # Saving merges LoRA's weights into the kernel.
        if new.trainable != old.trainable:
            new.trainable = old.trainable


def _own_variables(layer: Layer) -> list[Any]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _transfer_assets(original: Layer, copy: Layer) -> None:
    """Gives a copy what is no weight, such as a vocabulary."""
    if hasattr(original, "save_assets") and hasattr(copy, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            original.save_assets(folder)
            copy.load_assets(folder)
