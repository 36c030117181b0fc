# SPDX-License-Identifier: Apache-2.0
"""Where to look: a fixed batch of examples, and the blocks of a model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

_NORMALIZATIONS = (
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "RMSNormalization",
)


@dataclasses.dataclass(frozen=True)
class Probe:
    """Examples that a measure looks at, the same ones every time.

    Attributes:
        inputs: `[N, ...]`, as the model takes them.
    """

    inputs: NDArray[Any]

    @classmethod
    def sample(cls, inputs: ArrayLike, *, size: int, seed: int = 0) -> "Probe":
        """At most `size` examples, drawn without replacement, in their order.

        Raises:
            ValueError: If there are no examples or `size` is less than 1.
        """
        array = np.asarray(inputs)
        if array.ndim < 1 or not len(array) or size < 1:
            raise ValueError(
                "a probe needs at least one example. Received: "
                f"size={size}, inputs of shape {array.shape}"
            )
        rng = np.random.default_rng(seed)
        count = min(size, len(array))
        chosen = np.sort(rng.choice(len(array), count, replace=False))
        return cls(array[chosen])


@dataclasses.dataclass(frozen=True)
class Block:
    """Layers that feed each other: linear, then normalization, activation.

    Attributes:
        name: Name of its last layer, under which its figures appear.
        layers: The layers, in order.
    """

    name: str
    layers: tuple[keras.layers.Layer, ...]

    def __call__(self, x: Any) -> Any:
        """The block's output in inference mode."""
        for layer in self.layers:
            x = layer(x, training=False)
        return x


def blocks(
    model: keras.Model, names: Sequence[str] | None = None
) -> list[Block]:
    """The blocks of a model that end in an activation layer.

    A block starts at a layer with a kernel and takes in the normalization and
    activation that directly follow it.

    Args:
        model: A functional or sequential model.
        names: Blocks to keep, by name; `None` keeps all.

    Raises:
        ValueError: If a name is no block of the model; the message lists
            those there are.
    """
    found = []
    chain: list[keras.layers.Layer] = []
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            chain = [layer]
        elif chain and _follows(layer, chain[-1]):
            chain.append(layer)
            if isinstance(layer, _ACTIVATIONS):
                found.append(Block(layer.name, tuple(chain)))
                chain = []
        else:
            chain = []
    if names is None:
        return found
    by_name = {block.name: block for block in found}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(
            f"layers must be among {', '.join(by_name)}. "
            f"Received: {', '.join(unknown)}"
        )
    return [by_name[name] for name in names]


_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


def _follows(layer: keras.layers.Layer, before: keras.layers.Layer) -> bool:
    kind = type(layer).__name__
    if not isinstance(layer, _ACTIVATIONS) and kind not in _NORMALIZATIONS:
        return False
    return layer.input is before.output
