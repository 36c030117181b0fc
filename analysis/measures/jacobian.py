# SPDX-License-Identifier: Apache-2.0
"""Singular values of layer Jacobians.

Section 3.3 of Ioffe & Szegedy 2015 conjectures that batch normalization brings
them close to 1, which keeps the size of gradients through many layers.
"""

from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis import autodiff

Mode = Literal["inference", "batch"]


def jacobian_singular_values(
    function_or_layer: Callable[[Any], Any] | keras.layers.Layer,
    inputs: ArrayLike,
    *,
    mode: Mode = "inference",
) -> NDArray[np.floating[Any]]:
    """All singular values of d outputs / d inputs, by exact SVD.

    In `"inference"` mode each example has a Jacobian of its own, with the
    layer's moving statistics. In `"batch"` mode there is one, of all outputs
    by all inputs, with the statistics of the batch, which couple the
    examples; a layer's moving statistics stay as they are.

    Args:
        function_or_layer: A built Keras layer or model, or a function of one
            tensor.
        inputs: `[N, ...]`, floating point.
        mode: See above.

    Returns:
        Descending: `[N, min(outputs, inputs)]` per example in inference mode,
        `[min(N outputs, N inputs)]` in batch mode.

    Raises:
        ValueError: If `mode` is neither.
    """
    if mode == "inference":
        jacobian = autodiff.batch_jacobian(
            inference_function(function_or_layer)
        )
    elif mode == "batch":
        jacobian = autodiff.jacobian(_training_function(function_or_layer))
    else:
        raise ValueError(
            f"mode must be one of inference, batch. Received: mode={mode}"
        )
    return singular_values(jacobian(inputs))


def singular_values(matrices: ArrayLike) -> NDArray[np.floating[Any]]:
    """Singular values `[..., min(p, q)]` of `[..., p, q]`, descending."""
    values: NDArray[np.floating[Any]] = np.linalg.svd(
        np.asarray(matrices), compute_uv=False
    )
    return values


def inference_function(
    function_or_layer: Callable[[Any], Any] | keras.layers.Layer,
) -> Callable[[Any], Any]:
    """The layer as a function in inference mode; a function as it is."""
    if isinstance(function_or_layer, keras.layers.Layer):
        layer = function_or_layer
        return lambda x: layer(x, training=False)
    return function_or_layer


def _training_function(
    function_or_layer: Callable[[Any], Any] | keras.layers.Layer,
) -> Callable[[Any], Any]:
    if not isinstance(function_or_layer, keras.layers.Layer):
        return function_or_layer
    layer = function_or_layer

    def function(x: Any) -> Any:
        # Stateless: the new moving statistics are returned, not assigned.
        outputs, _ = layer.stateless_call(
            [v.value for v in layer.trainable_variables],
            [v.value for v in layer.non_trainable_variables],
            x,
            training=True,
        )
        return outputs

    return function
