# SPDX-License-Identifier: Apache-2.0
"""Captures or replaces tensors inside a model while it runs.

The calls of the model's layers are intercepted, which works for every kind of
Keras model. The model runs inside a `keras.StatelessScope`, in which no
variable, moving statistic or random state can change.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from analysis.autodiff.tracing import without_xla
from keras_bn import structure

Array = NDArray[np.floating[Any]]
Part = Literal["inputs", "outputs", "preactivation"]

#: The most values of a probe that run through the model at once.
CHUNK = 2**20


class Call(NamedTuple):
    """One call of a layer, or of another operation of a functional model.

    Attributes:
        layer: The layer.
        inputs: Its first argument.
        outputs: What it returned.
        preactivation: The input of the layer's own activation function;
            `None` if it has none.
    """

    layer: keras.Operation
    inputs: Any
    outputs: Any
    preactivation: Any = None


class Place(NamedTuple):
    """A tensor of a model, given by a layer and a part of the layer's call.

    Attributes:
        layer: The layer.
        part: The part.
        call: Which of the layer's calls, in order; -1 for the last.
    """

    layer: keras.Operation
    part: Part
    call: int = -1


def trace(
    model: keras.Model, layers: Sequence[keras.Operation], inputs: Any
) -> list[Call]:
    """The calls of layers, in order, with symbolic tensors.

    Calls inside loops, such as those of recurrent cells, are left out.

    A tensor that one layer returns and another takes is the same object in
    both calls.

    Args:
        model: A built model.
        layers: The layers to listen to.
        inputs: The model's inputs, as arrays or as Keras' symbolic tensors.
    """
    calls: list[Call] = []
    built = model.built

    def run(inputs: Any) -> None:
        calls.clear()  # TensorFlow traces twice if variables are created.
        graph = tf.compat.v1.get_default_graph()
        calls.extend(
            call
            for call in _calls(model, layers, inputs, training=False)
            if getattr(call.outputs, "graph", None) is graph
        )

    _compiled(run, inputs)
    if not built:  # Building it has called its layers as well.
        _compiled(run, inputs)
    return calls


def capture(
    model: keras.Model,
    places: Sequence[Place],
    inputs: Any,
    *,
    training: bool = False,
    held: Sequence[keras.Variable] = (),
) -> Callable[..., dict[Place, Array]]:
    """Returns a function that runs a model and reports tensors inside it.

    Args:
        model: A built model.
        places: What to report; floating-point tensors `[N, ...]`.
        inputs: The model's inputs, as arrays.
        training: Whether the model runs in training mode, on all inputs as
            one batch. Otherwise it takes them in pieces, to save memory.
        held: Variables to replace by given values during the run, such as
            random states.

    Returns:
        `run(values_of_held)`, which returns an array, float32 or float64, per
        place.

    Raises:
        ValueError: If the model does not accept the inputs, or a place has no
            such tensor.
    """

    def run(inputs: Any, values: Any) -> list[Any]:
        layers = list({place.layer for place in places})
        mapping = [
            (variable, tf.reshape(value, variable.shape))
            for variable, value in zip(held, values, strict=True)
        ]
        calls = _calls(
            model, layers, inputs, training=training, mapping=mapping
        )
        return [_tensor_at(place, _call_at(place, calls)) for place in places]

    values_now = [keras.ops.convert_to_numpy(variable) for variable in held]
    compiled = _compiled(run, inputs, values_now)
    chunks = _chunks(inputs, most=None if training else CHUNK)

    def captured(values: Sequence[Any] = ()) -> dict[Place, Array]:
        given = list(map(tf.constant, values))
        seen = [
            compiled(*keras.tree.flatten(chunk), *given) for chunk in chunks
        ]
        return {
            place: np.concatenate([tensors[i].numpy() for tensors in seen])
            for i, place in enumerate(places)
        }

    return captured


def spanning(
    model: keras.Model,
    start: keras.Operation | None,
    end: keras.Operation,
    *,
    training: bool,
) -> Callable[..., Any]:
    """Returns the part of a model between two tensors, as a function.

    Args:
        model: A built model.
        start: Its output is the function's argument; `None` for the model's
            only input.
        end: Its output is the function's result.
        training: Whether the model runs in training mode.

    Returns:
        `function(z, inputs)`: the output of `end` if `start` outputs `z` and
        everything that does not depend on `start` is computed from the model's
        `inputs`. It raises `ValueError` if `start` or `end` is not called
        exactly once.
    """

    def function(z: Any, inputs: Any) -> Any:
        calls: list[Call] = []
        with contextlib.ExitStack() as stack:
            if start is not None:
                stack.enter_context(_listening([start], calls, replace=z))
            stack.enter_context(_listening([end], calls))
            with keras.StatelessScope():
                model(z if start is None else inputs, training=training)
        for layer in {start, end} - {None}:
            count = sum(call.layer is layer for call in calls)
            if count != 1:
                raise ValueError(
                    "a span's ends must be called once each. Received: "
                    f"{layer.name}, called {count} times"
                )
        return next(call.outputs for call in calls if call.layer is end)

    return function


def _calls(
    model: keras.Model,
    layers: Sequence[keras.Operation],
    inputs: Any,
    *,
    training: bool,
    mapping: Sequence[tuple[keras.Variable, Any]] = (),
) -> list[Call]:
    """The calls of layers while the model runs."""
    calls: list[Call] = []
    with keras.StatelessScope(mapping), _listening(layers, calls):
        model(inputs, training=training)
    return calls


def _compiled(function: Callable[..., Any], *inputs: Any) -> Any:
    """The function, compiled for any number of such examples."""

    def spec(x: Any) -> tf.TensorSpec:
        return tf.TensorSpec((None, *x.shape[1:]), x.dtype)

    return tf.function(
        without_xla(function), autograph=False
    ).get_concrete_function(*keras.tree.map_structure(spec, inputs))


@contextlib.contextmanager
def _listening(
    layers: Sequence[keras.Operation], calls: list[Call], replace: Any = None
) -> Iterator[None]:
    """Appends the layers' calls; they return `replace` if it is given."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            listen = _recorder(layer, calls, replace)
            stack.enter_context(structure.patched(layer, "call", listen))
        yield


def _recorder(
    layer: keras.Operation, calls: list[Call], replace: Any
) -> Callable[..., Any]:
    call, activation = layer.call, layer.__dict__.get("activation")

    def recording(*args: Any, **kwargs: Any) -> Any:
        into_activation: list[Any] = []

        def activate(x: Any) -> Any:
            into_activation.append(x)
            return activation(x)

        with contextlib.ExitStack() as stack:
            if callable(activation):
                stack.enter_context(
                    structure.patched(layer, "activation", activate)
                )
            outputs = call(*args, **kwargs)
        if replace is not None:
            outputs = tf.cast(replace, outputs.dtype)
        inputs = args[0] if args else next(iter(kwargs.values()))
        calls.append(Call(layer, inputs, outputs, *into_activation[-1:]))
        return outputs

    return recording


def _call_at(place: Place, calls: Sequence[Call]) -> Call | None:
    """The call of a place; `None` if there is none outside of loops."""
    # A tensor inside a loop, such as a recurrent cell's, cannot leave it.
    graph = tf.compat.v1.get_default_graph()
    its = [
        call
        for call in calls
        if call.layer is place.layer
        and getattr(getattr(call, place.part), "graph", None) is graph
    ]
    return its[place.call] if -len(its) <= place.call < len(its) else None


def _tensor_at(place: Place, call: Call | None) -> Any:
    tensor: Any = call and getattr(call, place.part)
    if not tf.is_tensor(tensor) or not tensor.dtype.is_floating:
        raise ValueError(
            f"the {place.part} of a measured layer must be one floating-point "
            f"tensor. Received: layer={place.layer.name}"
        )
    half = tensor.dtype in (tf.float16, tf.bfloat16)
    return tf.cast(tensor, tf.float32) if half else tensor


def _chunks(inputs: Any, *, most: int | None) -> list[Any]:
    """The inputs in chunks of `most` values, but of at least one example."""
    arrays = [np.asarray(array) for array in keras.tree.flatten(inputs)]
    count = len(arrays[0])
    size = sum(array.size for array in arrays)
    step = max(1, (most or size) * count // max(1, size))
    starts = range(0, count, step)
    return [
        keras.tree.map_structure(
            lambda x, part=slice(first, first + step): tf.constant(x[part]),
            inputs,
        )
        for first in starts
    ]


def arrays(variables: Sequence[keras.Variable]) -> list[Array]:
    """Copies of the variables' values, which training may change in place."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
