# SPDX-License-Identifier: Apache-2.0
"""Jacobians as linear operators: products with vectors, never the matrix."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator

from analysis import autodiff

Array = NDArray[np.floating[Any]]


class JacobianOperator(LinearOperator):
    """The Jacobian of a function at a batch of inputs.

    Examples that do not depend on each other have a Jacobian each, the blocks
    of a block-diagonal operator; coupled examples have one.

    Args:
        products: The compiled products of the function's Jacobian.
        inputs: `[N, ...]`, floating point: the point of differentiation.
        context: The function's further arguments, `[N, ...]` each.
        coupled: Whether examples depend on each other.

    Attributes:
        blocks: Number of Jacobians: N, or 1 if coupled.
        shape: `(blocks outputs, blocks inputs)`.
        dtype: The dtype of the inputs, but at least float32.

    Raises:
        ValueError: If the inputs are not floating point, or contain no
            example.
    """

    def __init__(
        self,
        products: autodiff.Products,
        inputs: ArrayLike,
        context: Sequence[ArrayLike] = (),
        *,
        coupled: bool = False,
    ) -> None:
        self._products = products
        self._inputs = autodiff.tensor(inputs)
        self._context = [np.asarray(array) for array in context]
        self._input_shape = tuple(self._inputs.shape)
        self._output_shape = products.output_shape(self._inputs, *self._context)
        self.blocks = 1 if coupled else self._input_shape[0]
        super().__init__(
            autodiff.result_dtype(self._inputs),
            (math.prod(self._output_shape), math.prod(self._input_shape)),
        )

    def block(self, index: int) -> "JacobianOperator":
        """One of the blocks, as an operator of its own."""
        if self.blocks == 1:
            return self
        part = slice(index, index + 1)
        return JacobianOperator(
            self._products,
            self._inputs[part],
            [array[part] for array in self._context],
            coupled=True,
        )

    def _matvec(self, x: Array) -> Array:
        v = x.reshape(self._input_shape)
        return self._products.forward(v, self._inputs, *self._context).ravel()

    def _rmatvec(self, x: Array) -> Array:
        u = x.reshape(self._output_shape)
        return self._products.backward(u, self._inputs, *self._context).ravel()
