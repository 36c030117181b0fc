# SPDX-License-Identifier: Apache-2.0
"""Base class of measures that compare the weights before and after a step."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from analysis import autodiff, schedules, structure
from analysis.callbacks.base import MeasureCallback

Array = NDArray[np.floating[Any]]


class UpdateCallback(MeasureCallback):
    """Compares the weights before and after a step.

    If several steps run at once, it compares before and after all of them. By
    default it measures each layer with a kernel by itself.

    Attributes:
        own: Per block, indices of its weights in the model's trainable weights.
        before: All trainable weights before the measured step; `None` before
            the first step.
    """

    examples = 256

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # A training loop that runs up to scheduled steps also stops one before.
        self.schedule = schedules.and_before(self._due)
        self.own: dict[str, list[int]] = {}
        self.before: list[Array] | None = None

    def find_blocks(self) -> list[structure.Block]:
        """The blocks that have weights to be trained."""
        blocks = (
            structure.linear_layers(self.model, inputs=self.probe.inputs)
            if self._layers is None
            else super().find_blocks()
        )
        own = {block.name: self.indices(block.layers) for block in blocks}
        self.own = {name: indices for name, indices in own.items() if indices}
        return [block for block in blocks if block.name in self.own]

    def indices(self, layers: Iterable[keras.layers.Layer]) -> list[int]:
        """Indices of these layers' weights in the model's trainable weights."""
        variables = self.model.trainable_variables
        index = {id(variable): i for i, variable in enumerate(variables)}
        return [
            index[id(variable)]
            for layer in layers
            for variable in layer.trainable_variables
            if id(variable) in index
        ]

    def start(self) -> None:
        """Forgets the weights of an earlier run."""
        self.before = None
        super().start()

    def steps_ahead(self) -> None:
        """Keeps the weights if one of the next steps is to be measured."""
        ahead = range(1, self.model.steps_per_execution + 1)
        if any(self._due(self.step + i) for i in ahead):
            self.before = None
            try:
                self.keep()
            except Exception as error:
                self._note("all", error)

    def keep(self) -> None:
        """Keeps what to compare with after the step."""
        self.before = self.weights()

    def weights(self) -> list[Array]:
        """The trainable weights now."""
        return autodiff.arrays(self.model.trainable_variables)
