# SPDX-License-Identifier: Apache-2.0
"""Decides which BN layers can be folded, and into which linear layers.

A BN layer's map is pushed against the flow of data, to the linear layers that
make its input, and where that fails with the flow, to those that read its
output. On the way it passes layers that do nothing at inference and BN layers
that are folded themselves, and is cut up where tensors are joined. It has to
arrive at a linear layer on every branch, and nothing else may read a tensor
that changes by it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from keras_bn import structure
from keras_bn.folding import graph
from keras_bn.folding.affine import Affine, Blocked, Layer
from keras_bn.folding.einsum import Einsum
from keras_bn.folding.graph import Call
from keras_bn.folding.linear import Grouped, Linear, channel_axis

layers = keras.layers

_LINEAR: dict[type[Layer], type[Linear]] = {
    layers.Conv1D: Grouped,
    layers.Conv1DTranspose: Grouped,
    layers.Conv2D: Grouped,
    layers.Conv2DTranspose: Grouped,
    layers.Conv3D: Grouped,
    layers.Conv3DTranspose: Grouped,
    layers.Dense: Grouped,
    layers.DepthwiseConv1D: Grouped,
    layers.DepthwiseConv2D: Grouped,
    layers.EinsumDense: Einsum,
    layers.SeparableConv1D: Grouped,
    layers.SeparableConv2D: Grouped,
}
#: Do nothing at inference.
_IDENTITIES = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
_ZERO_PADDINGS = (
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of a BN layer.

    Attributes:
        layer: Its name, after those of the models around it.
        into: The linear layers that it is folded into; empty if it stays.
        reason: What is in the way before it and behind it, if it stays.
    """

    layer: str
    into: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.into:
            return f"{self.layer} is folded into {', '.join(self.into)}"
        return f"{self.layer} stays: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Edit:
    """A map that a linear layer takes in, of its output or its input."""

    affine: Affine
    behind: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do with a model.

    Attributes:
        decisions: One for each BN layer.
        folded: The BN layers to leave out.
        edits: For each linear layer that changes, what it takes in, in order.
    """

    decisions: list[Decision]
    folded: frozenset[Layer]
    edits: dict[Layer, list[Edit]]


def plan(model: keras.Model) -> Plan:
    """Decides for every BN layer of a built model; changes nothing."""
    planner = _Planner()
    calls = {
        call.layer: call
        for call in graph.calls(model)
        if structure.is_batch_normalization(call.layer)
    }
    for call in calls.values():
        planner.fold(call, behind=True)
    # From the end, so that a map can pass BN layers that are folded after it.
    for call in reversed(calls.values()):
        if call.layer not in planner.folded:
            planner.fold(call, behind=False)
    decisions = [planner.decision(call) for call in calls.values()]
    decisions += [
        Decision(layer.name, reason="it is inside a layer without a graph")
        for layer in structure.batch_normalizations(model)
        if layer not in calls
    ]
    return Plan(decisions, frozenset(planner.folded), planner.edits)


def activation(norm: Layer) -> Any:
    """The activation of a BN layer, which Keras' has none of."""
    return getattr(norm, "activation", None)


def linear(layer: Layer) -> Linear:
    """A copy of a linear layer's weights, to take maps into."""
    return _LINEAR[type(layer)](layer)


class _Planner:
    def __init__(self) -> None:
        self.folded: dict[Layer, tuple[str, ...]] = {}
        self.edits: dict[Layer, list[Edit]] = {}
        self._refusals: dict[Layer, list[str]] = {}

    def fold(self, norm: Call, *, behind: bool) -> None:
        """Folds a BN layer into those it reads, or those that read it."""
        try:
            affine = _affine(norm)
            if behind:
                found = list(self._makers(norm.sources[0], affine))
            elif activation(norm.layer) is None:
                found = list(self._readers(norm, affine))
            else:
                raise Blocked("it has an activation of its own")
        except Blocked as blocked:
            self._refusals.setdefault(norm.layer, []).append(str(blocked))
            return
        for call, part in found:
            edits = self.edits.setdefault(call.layer, [])
            edits.append(Edit(part, behind))
        self.folded[norm.layer] = tuple(call.path for call, _ in found)

    def decision(self, norm: Call) -> Decision:
        """What has become of a BN layer."""
        into = self.folded.get(norm.layer, ())
        refusals = dict.fromkeys(self._refusals.get(norm.layer, ()))
        return Decision(norm.path, into, "" if into else "; ".join(refusals))

    def _makers(
        self, call: Call, affine: Affine
    ) -> Iterator[tuple[Call, Affine]]:
        """The linear layers that make a tensor, with the map for each."""
        _require_single_call(call)
        if len(call.readers) != 1 or call.is_output:
            raise Blocked(f"{call.kind}, which it reads, is read elsewhere too")
        if self._passes(call):
            yield from self._makers(call.sources[0], affine)
        elif type(call.layer) is layers.Concatenate:
            axis = call.layer.axis % affine.rank
            sizes = [source.shape[axis] for source in call.sources]
            parts = affine.parts(axis, sizes)
            for source, part in zip(call.sources, parts, strict=True):
                yield from self._makers(source, part)
        elif type(call.layer) in _LINEAR:
            _LINEAR[type(call.layer)].require_behind(call.layer, affine)
            yield call, affine
        else:
            raise Blocked(f"{call.kind}, which it reads, is not linear")

    def _readers(
        self, call: Call, affine: Affine
    ) -> Iterator[tuple[Call, Affine]]:
        """The linear layers that read a tensor, with the map for each."""
        if call.is_output:
            raise Blocked(f"{call.kind} is an output of the model")
        for reader in call.readers:
            _require_single_call(reader)
            if self._passes(reader) or _pads_with(reader, affine):
                yield from self._readers(reader, affine)
            elif type(reader.layer) in _LINEAR:
                kind = _LINEAR[type(reader.layer)]
                kind.require_before(reader.layer, affine)
                yield reader, affine
            else:
                raise Blocked(f"{reader.kind}, which reads it, is not linear")

    def _passes(self, call: Call) -> bool:
        """Whether its output will be its input, at inference."""
        layer = call.layer
        if layer in self.folded:
            return activation(layer) is None
        if type(layer) is layers.Activation:
            return layer.activation is keras.activations.linear
        return type(layer) in _IDENTITIES and not call.training


def _affine(norm: Call) -> Affine:
    _require_single_call(norm)
    if norm.training:
        raise Blocked("it is called with training=True")
    return Affine.of(norm.layer, len(norm.shape))


def _require_single_call(call: Call) -> None:
    if call.times > 1:
        raise Blocked(f"{call.kind} is called {call.times} times")


def _pads_with(call: Call, affine: Affine) -> bool:
    """Whether it adds zeros that the map leaves zeros."""
    return (
        type(call.layer) in _ZERO_PADDINGS
        and not affine.shift.any()
        and affine.axes == (channel_axis(call.layer, affine.rank),)
    )
