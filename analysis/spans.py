# SPDX-License-Identifier: Apache-2.0
"""Any part of a model between two of its tensors."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis import autodiff, structure
from analysis.autodiff import Place


class Span:
    """The part of a model between two tensors, to measure its Jacobian.

    A tensor is named by the layer or operation that outputs it. Whatever
    bypasses the first tensor, such as a shortcut around it, is held fixed.

    Args:
        model: A built model with one input.
        start: Name of the layer, or a symbolic tensor of a functional model;
            `None` for the model's input.
        end: Likewise; `None` for the model's output.

    Attributes:
        name: `<start>_to_<end>`.

    Raises:
        ValueError: If the model has no such layer; the message lists the
            existing ones.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        start: str | keras.KerasTensor | None = None,
        end: str | keras.KerasTensor | None = None,
    ) -> None:
        self._model = model
        self._start = None if start is None else _operation(model, start)
        self._end = model if end is None else _operation(model, end)
        first = "input" if self._start is None else self._start.name
        self.name = f"{first}_to_{self._end.name}"

    def function(self, *, training: bool) -> Callable[..., Any]:
        """The span as a function of its first tensor and the model's input."""
        return autodiff.spanning(
            self._model, self._start, self._end, training=training
        )

    def locate(
        self, inputs: ArrayLike, *, training: bool
    ) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """The function's two arguments at a batch of the model's input."""
        array = np.asarray(inputs)
        if self._start is None:
            return array, [array]
        place = Place(self._start, "outputs")
        captured = autodiff.capture(
            self._model, [place], array, training=training
        )
        return captured()[place], [array]


def _operation(
    model: keras.Model, named: str | keras.KerasTensor
) -> Any:  # an operation, or None for the model's input
    if not isinstance(named, str):
        operation = named._keras_history.operation
        of_the_input = isinstance(operation, keras.layers.InputLayer)
        return None if of_the_input else operation
    operations = structure.operations(model)
    if named not in operations:
        raise ValueError(
            f"a span must end at one of {', '.join(operations)}. "
            f"Received: {named}"
        )
    return operations[named]
