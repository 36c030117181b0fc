# SPDX-License-Identifier: Apache-2.0
"""Who reads whom in a functional or sequential model and those inside it."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

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
        training: Whether it is called with `training=True`.
        times: How often the layer is called in all.
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

    Each model counts once, however often it is called: what is inside it does
    the same each time. There are none for models without a graph.

    Returns:
        In an order in which each comes after those that it reads.
    """
    found = list(_calls(model, "", False, set()))
    times = collections.Counter(call.layer for call in found)
    for call in found:
        call.times = times[call.layer]
    return found


def _calls(
    model: keras.Model, prefix: str, training: bool, entered: set[Layer]
) -> Iterator[Call]:
    entered.add(model)
    made = _calls_of_graph(model, prefix, training)
    yield from made
    for call in made:
        inner = call.layer
        if isinstance(inner, keras.Model) and inner not in entered:
            trained = any(x.training for x in made if x.layer is inner)
            yield from _calls(inner, f"{call.path}/", trained, entered)


def _calls_of_graph(
    model: keras.Model, prefix: str, training: bool
) -> list[Call]:
    # A sequential model keeps a functional one, if its input shape is known.
    graph = getattr(model, "_functional", model)
    nodes_by_depth = getattr(graph, "_nodes_by_depth", {})
    made: list[Call] = []
    makers: dict[int, Call] = {}
    for depth in sorted(nodes_by_depth, reverse=True):
        for node in nodes_by_depth[depth]:
            call = _call(node, makers, prefix, training)
            for source in call.sources:
                source.readers.append(call)
            makers.update((id(tensor), call) for tensor in node.outputs)
            made.append(call)
    for tensor in graph.outputs if made else ():
        makers[id(tensor)].is_output = True
    return made


def _call(
    node: Any, makers: dict[int, Call], prefix: str, training: bool
) -> Call:
    arguments = (*node.arguments.args[1:], *node.arguments.kwargs.values())
    return Call(
        layer=node.operation,
        path=prefix + node.operation.name,
        sources=[makers[id(tensor)] for tensor in node.input_tensors],
        shape=tuple(node.outputs[0].shape),
        training=training or any(value is True for value in arguments),
    )
