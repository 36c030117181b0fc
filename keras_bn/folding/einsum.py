# SPDX-License-Identifier: Apache-2.0
"""EinsumDense, whose equation says which axes its kernel and bias have."""

from typing import Any, NamedTuple

import numpy as np

from keras_bn.folding import linear
from keras_bn.folding.affine import Affine, Array, Blocked, Layer


class _Equation(NamedTuple):
    """Letters of the axes; those of the data may hold an ellipsis."""

    inputs: str
    kernel: str
    outputs: str

    @classmethod
    def of(cls, layer: Layer) -> "_Equation":
        operands, outputs = layer.equation.replace(" ", "").split("->")
        inputs, kernel = operands.split(",")
        return cls(inputs, kernel, outputs)


class Einsum:
    """An `EinsumDense` layer; axes go by their letters in its equation.

    Attributes:
        layer: The layer.
        kernel: With one axis per letter of the kernel.
        bias: With one axis per letter of `bias_letters`.
        bias_letters: Letters of the output, in its order.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._equation = _Equation.of(layer)
        self.kernel, *bias = (
            np.array(w, np.float64) for w in layer.get_weights()
        )
        self.bias_letters = self._in_output_order(layer.bias_axes or "")
        self.bias = np.zeros(())
        if bias:
            sizes = zip(self._keras_letters(), bias[0].shape, strict=False)
            self.bias = bias[0].reshape(
                [size for x, size in sizes if x in self.bias_letters]
            )

    @staticmethod
    def require_behind(layer: Layer, affine: Affine) -> None:
        """See `Linear`."""
        linear.require_linear_output(layer)
        equation = _Equation.of(layer)
        _require_in_kernel(layer, equation.outputs, affine)

    @staticmethod
    def require_before(layer: Layer, affine: Affine) -> None:
        """See `Linear`."""
        equation = _Equation.of(layer)
        _require_in_kernel(layer, equation.inputs, affine)
        summed = set(equation.inputs) - set(equation.outputs)
        if not summed <= set(equation.kernel):
            raise Blocked(f"{layer.name} sums over an axis without weights")

    def take_behind(self, affine: Affine) -> None:
        """See `Linear`."""
        letters = _letters(self._equation.outputs, affine)
        slope, shift = affine.slope, affine.shift
        self.kernel *= _spread(slope, letters, self._equation.kernel)
        self._widen_bias(letters)
        self.bias = self.bias * _spread(slope, letters, self.bias_letters)
        self.bias = self.bias + _spread(shift, letters, self.bias_letters)

    def take_before(self, affine: Affine) -> None:
        """See `Linear`."""
        letters = _letters(self._equation.inputs, affine)
        kernel = self._equation.kernel
        left = self._in_output_order(kernel)
        constant = np.einsum(
            f"{kernel},{letters}->{left}", self.kernel, affine.shift
        )
        self.kernel *= _spread(affine.slope, letters, kernel)
        if constant.any():
            self._widen_bias(left)
            self.bias = self.bias + _spread(constant, left, self.bias_letters)

    def config(self) -> dict[str, Any]:
        """See `Linear`."""
        axes = self.bias_letters or None
        return {**self.layer.get_config(), "bias_axes": axes}

    def weights(self) -> list[Array]:
        """See `Linear`."""
        if not self.bias_letters:
            return [self.kernel]
        bias = _spread(self.bias, self.bias_letters, self._keras_letters())
        elided = 0
        if self._equation.outputs.endswith("..."):
            letters = self._equation.inputs.removesuffix("...")
            elided = self.layer.input_spec.ndim - len(letters)
        return [self.kernel, bias.reshape(bias.shape + (1,) * elided)]

    def _widen_bias(self, letters: str) -> None:
        """Gives the bias axes of size 1 for letters that it lacks."""
        wider = self._in_output_order(self.bias_letters + letters)
        self.bias = _spread(self.bias, self.bias_letters, wider)
        self.bias_letters = wider

    def _in_output_order(self, letters: str) -> str:
        return "".join(x for x in self._equation.outputs if x in letters)

    def _keras_letters(self) -> str:
        """The letters of the axes of Keras' bias, some of size 1."""
        letters = self._equation.outputs.replace("...", "")
        return letters[letters.index(self.bias_letters[0]) :]


def _require_in_kernel(layer: Layer, operand: str, affine: Affine) -> None:
    linear.require_unquantized(layer)
    kernel = _Equation.of(layer).kernel
    if not set(_letters(operand, affine)) <= set(kernel):
        raise Blocked(f"the kernel of {layer.name} lacks its axis")


def _letters(operand: str, affine: Affine) -> str:
    """Letters of the feature axes; a dot for one that an ellipsis covers."""
    before, ellipsis, after = operand.partition("...")
    covered = affine.rank - len(before) - len(after)
    letters = before + ("." * covered if ellipsis else "") + after
    return "".join(letters[axis] for axis in affine.axes)


def _spread(values: Array, letters: str, onto: str) -> Array:
    """`values` with one axis per letter of `onto`, of size 1 where new."""
    ordered = [letters.index(x) for x in onto if x in letters]
    sizes = [
        values.shape[letters.index(x)] if x in letters else 1 for x in onto
    ]
    return values.transpose(ordered).reshape(sizes)
