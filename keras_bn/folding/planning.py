# SPDX-License-Identifier: Apache-2.0
"""Decides which BN layers can be folded, and into which linear layers.

A BN layer's map is pushed against the flow of data, to the linear layers that
compute its input, or, if that fails, with the flow to those that read its
output. On the way it passes pooling, layers that do nothing at inference and BN
layers that are folded themselves; at a concatenation it is split. It has to
reach a linear layer on every branch, all calls of a linear layer must receive
the same map, and nothing else may read a tensor that the map changes.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_bn import structure
from keras_bn.folding import graph, passing
from keras_bn.folding.affine import Affine, Blocked, Layer
from keras_bn.folding.einsum import Einsum
from keras_bn.folding.graph import Call
from keras_bn.folding.linear import Grouped, Linear

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


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of a BN layer.

    Attributes:
        layer: Its name, after those of the models around it.
        into: The linear layers that it is folded into; empty if it stays.
        reason: Why it can be folded neither backwards nor forwards, if it
            stays.
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
    """A map that a linear layer absorbs, of its output or its input."""

    affine: Affine
    behind: bool


#: A call of a linear layer, and the map that it would take in.
_Taker = tuple[Call, Affine]


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
    structure.require_built(model)
    planner = _Planner()
    norms: dict[Layer, list[Call]] = {}
    for call in graph.calls(model):
        if structure.is_batch_normalization(call.layer):
            norms.setdefault(call.layer, []).append(call)
    for calls in norms.values():
        planner.fold(calls, behind=True)
    # From the end, so that a map can pass BN layers that are folded after it.
    for layer, calls in reversed(norms.items()):
        if layer not in planner.folded:
            planner.fold(calls, behind=False)
    decisions = [planner.decision(calls[0]) for calls in norms.values()]
    decisions += [
        Decision(layer.name, reason=reason)
        for layer, reason in _out_of_reach(model)
        if layer not in norms
    ]
    return Plan(decisions, frozenset(planner.folded), planner.edits)


def _out_of_reach(model: keras.Model) -> Iterator[tuple[Layer, str]]:
    for layer in structure.sublayers(model):
        if structure.is_batch_normalization(layer):
            yield layer, "it is inside a layer without a graph"
        elif isinstance(layer, structure.BATCH_NORMALIZATIONS):
            yield layer, f"its class, {type(layer).__name__}, is another"


def taking_in(layer: Layer, edits: Sequence[Edit]) -> Linear:
    """A copy of a linear layer's weights that has taken maps in."""
    taken = _LINEAR[type(layer)](layer)
    for edit in edits:
        if edit.behind:
            taken.take_behind(edit.affine)
        else:
            taken.take_before(edit.affine)
    return taken


class _Planner:
    def __init__(self) -> None:
        self.folded: dict[Layer, tuple[str, ...]] = {}
        self.edits: dict[Layer, list[Edit]] = {}
        self._refusals: dict[Layer, list[str]] = {}

    def fold(self, norms: Sequence[Call], *, behind: bool) -> None:
        """Folds a BN layer into linear layers before it, or after it.

        Args:
            norms: All its calls.
            behind: Whether into those before it, so that it lies behind them.
        """
        layer = norms[0].layer
        try:
            _require_all_calls(norms)
            found = [
                pair for norm in norms for pair in self._takers(norm, behind)
            ]
            _require_alike(found)
            takers = {call.layer: (call.path, part) for call, part in found}
            edits = {
                taker: [*self.edits.get(taker, ()), Edit(part, behind)]
                for taker, (_, part) in takers.items()
            }
            for taker, (path, _) in takers.items():
                _require_fits(taker, path, edits[taker])
        except Blocked as blocked:
            self._refusals.setdefault(layer, []).append(str(blocked))
            return
        self.edits.update(edits)
        self.folded[layer] = tuple(path for path, _ in takers.values())

    def decision(self, norm: Call) -> Decision:
        """What has become of a BN layer."""
        into = self.folded.get(norm.layer, ())
        refusals = dict.fromkeys(self._refusals.get(norm.layer, ()))
        return Decision(norm.path, into, "" if into else "; ".join(refusals))

    def _takers(self, norm: Call, behind: bool) -> Iterator[_Taker]:
        """The linear layers that a call of a BN layer can be folded into."""
        if norm.training:
            raise Blocked("it is called with training=True")
        affine = Affine.of(norm.layer, len(norm.shape))
        if behind:
            found = self._makers(norm.sources[0], affine)
        elif structure.activation(norm.layer) is None:
            found = self._readers(norm, affine)
        else:
            raise Blocked("it has an activation of its own")
        for taker, part in found:
            _require_same_precision(taker, norm)
            yield taker, part

    def _makers(self, call: Call, affine: Affine) -> Iterator[_Taker]:
        """The linear layers that make a tensor, with the map for each."""
        if len(call.readers) != 1 or call.is_output:
            raise Blocked(f"{call.kind}, which it reads, is read elsewhere too")
        if call.sources:
            source = call.sources[0]
            before = self._across(call, affine, rank=len(source.shape))
            if before:
                yield from self._makers(source, before)
                return
        if type(call.layer) is layers.Concatenate:
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

    def _readers(self, call: Call, affine: Affine) -> Iterator[_Taker]:
        """The linear layers that read a tensor, with the map for each."""
        if call.is_output:
            raise Blocked(f"{call.kind} is an output of the model")
        for reader in call.readers:
            after = self._across(reader, affine, rank=len(reader.shape))
            if after:
                yield from self._readers(reader, after)
            elif type(reader.layer) in _LINEAR:
                kind = _LINEAR[type(reader.layer)]
                kind.require_before(reader.layer, affine)
                yield reader, affine
            else:
                raise Blocked(f"{reader.kind}, which reads it, is not linear")

    def _across(
        self, call: Call, affine: Affine, *, rank: int
    ) -> Affine | None:
        """Like `passing.across`; also passes folded BN without activation."""
        if call.layer in self.folded:
            left = structure.activation(call.layer)
            return affine if left is None else None
        return passing.across(call, affine, rank=rank)


def _require_same_precision(taker: Call, norm: Call) -> None:
    theirs, own = taker.layer.compute_dtype, norm.layer.compute_dtype
    if theirs != own:
        raise Blocked(f"{taker.kind} computes in {theirs}, it in {own}")


def _require_fits(taker: Layer, path: str, edits: Sequence[Edit]) -> None:
    """Raises `Blocked` if float16, the one narrow dtype, is too narrow."""
    if taker.compute_dtype != "float16":
        return
    most = np.finfo(np.float16).max
    if any((np.abs(w) > most).any() for w in taking_in(taker, edits).weights()):
        raise Blocked(f"the weights of {path} would not fit into float16")


def _require_all_calls(calls: Sequence[Call]) -> None:
    """Raises `Blocked` unless these are all calls of their layer."""
    if len(calls) != calls[0].times:
        raise Blocked(f"{calls[0].kind} is called elsewhere too")


def _require_alike(takers: Sequence[_Taker]) -> None:
    """Raises `Blocked` unless a layer gets the same map in all its calls."""
    by_layer: dict[Layer, list[_Taker]] = {}
    for taker in takers:
        by_layer.setdefault(taker[0].layer, []).append(taker)
    for same in by_layer.values():
        _require_all_calls([call for call, _ in same])
        for call, part in same:
            if not part.equals(same[0][1]):
                raise Blocked(
                    f"{call.kind} would need another map in each call"
                )
