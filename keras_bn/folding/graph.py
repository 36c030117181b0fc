# SPDX-License-Identifier: Apache-2.0
"""Which calls read which, in functional or sequential models, also nested."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_bn import structure

Layer = Any  # keras.layers.Layer is untyped for mypy.


@dataclasses.dataclass(eq=False)
class Call:
    """A call of a layer in the graph of a model.

    Attributes:
        layer: The layer, or operation.
        path: Names of the models around it and its own, joined by slashes.
        sources: The calls whose outputs it reads, in order.
        readers: The calls that read its output, in order.
        shape: Shape of its output, or of the first of several.
        is_output: Whether the model returns it.
        training: Whether it, or a model around it, is called with
            `training=True`.
        times: Total number of calls of the layer; each layer without a graph
            that contains it counts as one call.
    """

    layer: Layer
    path: str
    sources: list["Call"]
    shape: tuple[int | None, ...]
    training: bool
    readers: list["Call"] = dataclasses.field(default_factory=list)
    is_output: bool = False
    times: int = 1

    @property
    def kind(self) -> str:
        """Path and class, for messages."""
        return f"{self.path} ({type(self.layer).__name__})"


def calls(model: keras.Model) -> list[Call]:
    """Every call in a model and in the models inside it.

    Each model counts once, however often it is called, because its inside does
    the same each time. Models without a graph have no calls.

    Returns:
        The calls, each after those that it reads.
    """
    graphs: dict[Layer, list[Call]] = {}
    _enter(model, "", graphs)
    _hand_training_down(graphs)
    found = [call for graph in graphs.values() for call in graph]
    times = collections.Counter(call.layer for call in found)
    times.update(_held({call.layer for call in found} - set(graphs)))
    for call in found:
        call.times = times[call.layer]
    return found


def _enter(
    model: keras.Model, prefix: str, graphs: dict[Layer, list[Call]]
) -> None:
    """Adds the calls in a model and in those inside it, each once."""
    graphs[model] = _calls_of_graph(model, prefix)
    for call in graphs[model]:
        if structure.has_graph(call.layer) and call.layer not in graphs:
            _enter(call.layer, f"{call.path}/", graphs)


def _hand_training_down(graphs: dict[Layer, list[Call]]) -> None:
    """Marks what is inside models that are called with `training=True`."""
    calls = [call for graph in graphs.values() for call in graph]
    waiting = [call.layer for call in calls if call.training]
    while waiting:
        for call in graphs.get(waiting.pop(), ()):
            if not call.training:
                call.training = True
                waiting.append(call.layer)


def _held(holders: Iterable[Layer]) -> Iterator[Layer]:
    """The layers inside layers without a graph."""
    for holder in holders:
        if isinstance(holder, keras.layers.Layer):
            yield from structure.sublayers(holder)


def _calls_of_graph(model: keras.Model, prefix: str) -> list[Call]:
    if not structure.has_graph(model):
        return []
    # A sequential model keeps a functional one, if its input shape is known.
    graph = getattr(model, "_functional", model)
    nodes_by_depth = getattr(graph, "_nodes_by_depth", {})
    made: list[Call] = []
    makers: dict[int, Call] = {}
    for depth in sorted(nodes_by_depth, reverse=True):
        for node in nodes_by_depth[depth]:
            call = _call(node, makers, prefix)
            for source in call.sources:
                source.readers.append(call)
            makers.update((id(tensor), call) for tensor in node.outputs)
            made.append(call)
    for tensor in graph.outputs if made else ():
        makers[id(tensor)].is_output = True
    return made


def _call(node: Any, makers: dict[int, Call], prefix: str) -> Call:
    by_place, by_name = node.arguments.args[1:], node.arguments.kwargs
    # Keras accepts any true value; a positional one may mean something else.
    is_true = any(value is True for value in by_place)
    return Call(
        layer=node.operation,
        path=prefix + node.operation.name,
        sources=[makers[id(tensor)] for tensor in node.input_tensors],
        shape=tuple(node.outputs[0].shape),
        training=is_true or by_name.get("training") not in (None, False, 0),
    )
