# SPDX-License-Identifier: Apache-2.0
"""The parts of a model to look at: blocks of layers, in the order they run."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from analysis import autodiff, tags
from analysis.autodiff import Place
from keras_bn.structure import sublayers

#: A name, a compiled regular expression that a name must match as a whole, or
#: a class of layers.
Selector = str | re.Pattern[str] | type

_NORMALIZATIONS = (
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "RMSNormalization",
)
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """Layers that feed each other: linear, then normalization, activation.

    Attributes:
        name: The name under which its figures appear: that of its last layer,
            or of its first if several blocks end in the same layer.
        layers: The layers, in order.
        calls: The index of each layer's call; if empty, the last calls.
    """

    name: str
    layers: tuple[keras.layers.Layer, ...]
    calls: tuple[int, ...] = ()

    def function(self, *, training: bool) -> Callable[[Any], Any]:
        """The block as a function that changes no variable."""

        def function(x: Any) -> Any:
            with keras.StatelessScope():
                for layer in self.layers:
                    x = layer(x, training=training)
            return x

        return function

    @property
    def input(self) -> Place:
        """The input of the block."""
        return Place(self.layers[0], "inputs", *self.calls[:1])

    @property
    def preactivation(self) -> Place:
        """The input of the block's activation; without one, its output."""
        last = self.layers[-1]
        call = self.calls[-1:]
        if isinstance(last, _ACTIVATIONS):
            return Place(last, "inputs", *call)
        if _own_activation(last):
            return Place(last, "preactivation", *call)
        return Place(last, "outputs", *call)

    def feature_axis(self, rank: int) -> int:
        """The axis of the features in a tensor `[N, ...]` of the block."""
        first = any(map(_has_channels_first, self.layers))
        return 1 if first and rank > 2 else -1

    def channels_last(self, values: Any) -> Any:
        """A tensor of the block with its features along the last axis."""
        return np.moveaxis(values, self.feature_axis(np.ndim(values)), -1)

    @property
    def activation(self) -> Callable[[Any], Any] | None:
        """The activation at the block's end, if it maps values one by one."""
        last = self.layers[-1]
        function = _own_activation(last)
        if function is None and isinstance(last, _ACTIVATIONS):
            function = last
        inner = function
        if isinstance(inner, keras.layers.Activation):
            inner = inner.activation
        of_several = isinstance(
            inner, keras.layers.PReLU | keras.layers.Softmax
        ) or getattr(inner, "__name__", "") in ("softmax", "log_softmax")
        return None if of_several else function


def operations(model: keras.Model) -> dict[str, keras.Operation]:
    """Every layer of a model, including layers within layers, by unique names.

    Layers that share a name appear under their paths. Operations of functional
    models, such as `keras.ops.add`, are included.
    """
    layers = sublayers(model)
    found = list(dict.fromkeys([*layers, *getattr(model, "operations", ())]))
    times = Counter(operation.name for operation in found)
    named: dict[str, keras.Operation] = {}
    taken: set[str] = set()
    for operation in found:
        path = getattr(operation, "path", None)
        unique = times[operation.name] == 1
        name = operation.name if unique or not path else path
        # Nested functional models share paths, and tags replace slashes.
        name = _another(name, taken)
        taken.add(tags.in_tag(name))
        named[name] = operation
    return named


def _another(name: str, taken: Collection[str]) -> str:
    """The name, with a number if its tag would equal another's."""
    numbered = (f"{name}_{i}" for i in itertools.count(2))
    names = itertools.chain([name], numbered)
    return next(x for x in names if tags.in_tag(x) not in taken)


def blocks(
    model: keras.Model,
    layers: Selector | Sequence[Selector] | None = None,
    *,
    inputs: Any = None,
) -> list[Block]:
    """The parts of a model to measure.

    By default each layer with a kernel, together with the normalization and
    the activation that directly follow it, if it has at least one of the two;
    if there is no such block, each layer with a kernel by itself.

    Args:
        model: A built model.
        layers: What to measure instead: names, regular expressions, classes
            of layers. The name of a block's last layer stands for the block,
            any other layer for itself.
        inputs: The model's inputs, as arrays; needed unless the model knows
            their shapes, as functional and sequential models do.

    Returns:
        The blocks, in the order in which they run, or in that of `layers`.

    Raises:
        ValueError: If there is no selector, or one is invalid or selects
            nothing; in the last case the message lists the existing names.
    """
    chains = _chains(_leaf_calls(model, inputs))
    names = {layer: name for name, layer in operations(model).items()}
    known = _named(chains, names)
    if layers is None:
        followed = [b for b in known.values() if _has_more_than_kernel(b)]
        return followed or list(known.values())
    for layer, name in names.items():
        if isinstance(layer, keras.layers.Layer):
            known.setdefault(name, Block(name, (layer,)))
    chosen = [
        block
        for selector in _selectors(layers)
        for block in _selected(known, selector)
    ]
    return list(dict.fromkeys(chosen))


def _named(
    chains: Sequence[Sequence[tuple[keras.layers.Layer, int]]],
    names: Mapping[keras.Operation, str],
) -> dict[str, Block]:
    """Blocks by unique names; if the same layers run twice, the last call."""
    calls_of: dict[tuple[keras.layers.Layer, ...], tuple[int, ...]] = {}
    for chain in chains:
        layers, calls = zip(*chain, strict=True)
        calls_of[layers] = calls
    ends = Counter(layers[-1] for layers in calls_of)
    found: dict[str, Block] = {}
    for layers, calls in calls_of.items():
        name = names[layers[-1] if ends[layers[-1]] == 1 else layers[0]]
        name = _another(name, set(map(tags.in_tag, found)))
        found[name] = Block(name, layers, calls)
    return found


def linear_layers(model: keras.Model, *, inputs: Any = None) -> list[Block]:
    """Each layer with a kernel by itself, in the order in which they run.

    Args:
        model: As of `blocks`.
        inputs: As of `blocks`.
    """
    names = {layer: name for name, layer in operations(model).items()}
    return [
        Block(names[layer], (layer,))
        for layer in weighted_layers(model, inputs=inputs)
        if _has_kernel(layer)
    ]


def weighted_layers(
    model: keras.Model, *, inputs: Any = None
) -> list[keras.layers.Layer]:
    """Each layer with weights of its own, in the order in which they run.

    Args:
        model: As of `blocks`.
        inputs: As of `blocks`.
    """
    layers = sublayers(model)
    called = [call.layer for call in _calls(model, layers, inputs)]
    heard = set(called)
    order: dict[keras.layers.Layer, None] = {}

    def add(layer: keras.layers.Layer) -> None:
        """Adds what a layer contains, such as a looped cell, then the layer."""
        for inner in sublayers(layer):
            if inner not in heard:
                order.setdefault(inner)
        order.setdefault(layer)

    for layer in [*called, *layers]:
        add(layer)
    return [layer for layer in order if _own_weights(layer)]


def random_states(model: keras.Model) -> list[keras.Variable]:
    """The states of a model's random layers."""
    states = {
        id(generator.state): generator.state
        for layer in [model, *sublayers(model)]
        for generator in getattr(layer, "_seed_generators", ())
    }
    return list(states.values())


def _own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Its trainable weights without those of layers inside."""
    return [v for v in layer._trainable_variables if v.trainable]


def _selectors(layers: Any) -> list[Selector]:
    """One selector or several, as a list that is not empty."""
    several = isinstance(layers, Iterable) and not isinstance(layers, str)
    selectors = list(layers) if several else [layers]
    kinds = (str, re.Pattern, type)
    if not selectors or not all(isinstance(x, kinds) for x in selectors):
        raise ValueError(
            "layers must be names, regular expressions or classes of layers, "
            f"at least one. Received: layers={layers}"
        )
    return selectors


def _selected(known: Mapping[str, Block], selector: Selector) -> list[Block]:
    if isinstance(selector, str):
        selected = [known[selector]] if selector in known else []
    elif isinstance(selector, re.Pattern):
        selected = [b for name, b in known.items() if selector.fullmatch(name)]
    else:
        selected = [
            b for b in known.values() if isinstance(b.layers[-1], selector)
        ]
    if not selected:
        shown = getattr(selector, "pattern", None) or selector
        raise ValueError(
            f"layers must be among {', '.join(known)}. Received: {shown}"
        )
    return selected


def _leaf_calls(model: keras.Model, inputs: Any) -> list[autodiff.Call]:
    leaves = [
        layer
        for layer in sublayers(model)
        # A leaf's activation function may itself be a layer.
        if all(
            inner is vars(layer).get("activation") for inner in sublayers(layer)
        )
    ]
    return _calls(model, leaves, inputs)


def _calls(
    model: keras.Model, layers: Sequence[keras.layers.Layer], inputs: Any
) -> list[autodiff.Call]:
    if inputs is None:
        try:
            inputs = model.input
        except (AttributeError, ValueError):
            raise ValueError(
                "inputs must be given for a model that does not know their "
                f"shape. Received: inputs=None for model {model.name}"
            ) from None
    return autodiff.trace(model, layers, inputs)


def _chains(
    calls: Sequence[autodiff.Call],
) -> list[list[tuple[keras.layers.Layer, int]]]:
    """Chains of kernel, normalization and activation that feed each other.

    Each layer comes with the index of its call.
    """
    made: Counter[keras.Operation] = Counter()
    numbers: dict[int, int] = {}
    for call in calls:
        numbers[id(call)] = made[call.layer]
        made[call.layer] += 1
    takers = {
        id(call.inputs): call
        for call in reversed(calls)
        if isinstance(call.layer, _ACTIVATIONS)
        or type(call.layer).__name__ in _NORMALIZATIONS
    }
    chains = []
    for call in calls:
        if not _has_kernel(call.layer):
            continue
        chain = [call]
        while (
            not _ends_in_activation(chain[-1].layer)
            and id(chain[-1].outputs) in takers
        ):
            chain.append(takers[id(chain[-1].outputs)])
        chains.append([(call.layer, numbers[id(call)]) for call in chain])
    return chains


def _has_kernel(layer: keras.Operation) -> bool:
    return hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel")


def _has_more_than_kernel(block: Block) -> bool:
    return len(block.layers) > 1 or _ends_in_activation(block.layers[-1])


def _has_channels_first(layer: keras.layers.Layer) -> bool:
    if getattr(layer, "data_format", "") == "channels_first":
        return True
    is_normalization = type(layer).__name__ in _NORMALIZATIONS
    return is_normalization and getattr(layer, "axis", -1) in (1, [1], (1,))


def _ends_in_activation(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, _ACTIVATIONS) or bool(_own_activation(layer))


def _own_activation(layer: keras.layers.Layer) -> Callable[[Any], Any] | None:
    function = vars(layer).get("activation")
    if not callable(function) or function is keras.activations.linear:
        return None
    own: Callable[[Any], Any] = function
    return own
