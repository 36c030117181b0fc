# SPDX-License-Identifier: Apache-2.0
"""Linear layers, and how they absorb an affine map of their output or input.

With a BN layer `a x + b` per feature, `W` the kernel and `c` the bias,

    behind the layer:   a (W x + c) + b  =  (a W) x + (a c + b)
    before the layer:   W (a x + b) + c  =  (W a) x + (W b + c)

where `a W` scales each output feature's part of the kernel, `W a` each input
feature's, and `W b` is the kernel's response to the constant input `b`. This
response must be the same everywhere, which it is not if padding adds zeros to
the input.

Arithmetic is float64.
"""

from typing import Any, Protocol

import keras
import numpy as np

from keras_bn.folding.affine import Affine, Array, Blocked, Layer

layers = keras.layers

_TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


class Linear(Protocol):
    """A linear layer's weights, which absorb maps one after the other."""

    def __init__(self, layer: Layer) -> None: ...

    @staticmethod
    def require_behind(layer: Layer, affine: Affine) -> None:
        """Raises `Blocked` unless the layer can take a map of its output."""

    @staticmethod
    def require_before(layer: Layer, affine: Affine) -> None:
        """Raises `Blocked` unless the layer can take a map of its input."""

    def take_behind(self, affine: Affine) -> None:
        """Takes in a map of its output."""

    def take_before(self, affine: Affine) -> None:
        """Takes in a map of its input."""

    def config(self) -> dict[str, Any]:
        """Configuration of the layer that has absorbed all maps."""

    def weights(self) -> list[Array]:
        """That layer's weights, in the order that Keras has them in."""


def require_unquantized(layer: Layer) -> None:
    """Raises `Blocked` unless the kernel is what the layer multiplies by."""
    if layer.quantization_mode or getattr(layer, "lora_enabled", False):
        raise Blocked(f"{layer.name} is quantized or has LoRA weights")


def require_linear_output(layer: Layer) -> None:
    """Raises `Blocked` if the layer has an activation of its own."""
    if layer.activation is not keras.activations.linear:
        raise Blocked(f"{layer.name} has an activation of its own")


def channel_axis(layer: Layer, rank: int) -> int:
    """The feature axis of a layer that has one."""
    data_format = getattr(layer, "data_format", "channels_last")
    return 1 if data_format == "channels_first" else rank - 1


class Grouped:
    """A dense or convolutional layer.

    Attributes:
        layer: The layer.
        kernels: Kernels applied one after the other, each seen as `[taps,
            groups, inputs of a group, outputs of a group]`.
        bias: `[outputs]`, or `None`.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._weights = [np.array(w, np.float64) for w in layer.get_weights()]
        self.bias = self._weights.pop() if layer.use_bias else None
        self.kernels = [
            _seen_as_groups(layer, kernel, first=not i)
            for i, kernel in enumerate(self._weights)
        ]

    @staticmethod
    def require_behind(layer: Layer, affine: Affine) -> None:
        """See `Linear`."""
        require_linear_output(layer)
        _require_channels(layer, affine)

    @staticmethod
    def require_before(layer: Layer, affine: Affine) -> None:
        """See `Linear`."""
        _require_channels(layer, affine)
        if affine.shift.any() and _depends_on_place(layer):
            raise Blocked(
                f"its shift would not reach into the padding of {layer.name}"
            )

    def take_behind(self, affine: Affine) -> None:
        """See `Linear`."""
        _, groups, _, outputs = self.kernels[-1].shape
        self.kernels[-1] *= affine.slope.reshape(groups, 1, outputs)
        if self.bias is not None:
            self.bias *= affine.slope
        self._add_to_bias(affine.shift)

    def take_before(self, affine: Affine) -> None:
        """See `Linear`."""
        constant = affine.shift
        for kernel in self.kernels:
            grouped = constant.reshape(kernel.shape[1:3])
            constant = np.einsum("tgio,gi->go", kernel, grouped).ravel()
        _, groups, inputs, _ = self.kernels[0].shape
        self.kernels[0] *= affine.slope.reshape(groups, inputs, 1)
        self._add_to_bias(constant)

    def _add_to_bias(self, constant: Array) -> None:
        if self.bias is not None:
            self.bias += constant
        elif constant.any():
            self.bias = constant.copy()

    def config(self) -> dict[str, Any]:
        """See `Linear`."""
        return {**self.layer.get_config(), "use_bias": self.bias is not None}

    def weights(self) -> list[Array]:
        """See `Linear`."""
        return self._weights + ([] if self.bias is None else [self.bias])


def _require_channels(layer: Layer, affine: Affine) -> None:
    require_unquantized(layer)
    if affine.axes != (channel_axis(layer, affine.rank),):
        raise Blocked(f"its axis is not the feature axis of {layer.name}")


def _seen_as_groups(layer: Layer, kernel: Array, *, first: bool) -> Array:
    """A view of a kernel as `[taps, groups, inputs, outputs]`."""
    *taps, rows, columns = kernel.shape
    flat = kernel.reshape(int(np.prod(taps)), rows, columns)
    if isinstance(layer, _TRANSPOSED):
        return flat.swapaxes(1, 2)[:, np.newaxis]
    if isinstance(layer, _DEPTHWISE + _SEPARABLE) and first:
        return flat[:, :, np.newaxis]
    groups = getattr(layer, "groups", 1)
    return flat.reshape(*flat.shape[:2], groups, -1).swapaxes(1, 2)


def _depends_on_place(layer: Layer) -> bool:
    """Whether it may turn a constant input into an output that varies."""
    if isinstance(layer, layers.Dense):
        return False
    sizes: tuple[int, ...] = layer.kernel_size
    if isinstance(layer, _TRANSPOSED):
        return any(size != 1 for size in (*sizes, *layer.strides))
    return layer.padding != "valid" and any(size != 1 for size in sizes)
