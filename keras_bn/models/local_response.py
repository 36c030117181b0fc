# SPDX-License-Identifier: Apache-2.0
"""Local response normalization, which GoogLeNet had and BN replaces."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_bn")
class LocalResponseNormalization(keras.layers.Layer):
    """`x / (1 + 1e-4/5 * sum of squares of 5 neighbouring channels)^0.75`.

    Krizhevsky et al. 2012, section 3.3, with the constants of GoogLeNet.
    """

    def call(self, x: Any) -> Any:
        """Normalizes feature maps `[N, H, W, C]`."""
        squares = keras.ops.pad(keras.ops.square(x), [[0, 0]] * 3 + [[2, 2]])
        channels = x.shape[-1]
        total = sum(squares[..., i : i + channels] for i in range(5))
        return x / keras.ops.power(1.0 + 2e-5 * total, 0.75)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """The shape of the input."""
        return input_shape
