# SPDX-License-Identifier: Apache-2.0
"""The Keras layer: weights, configuration, and which statistics apply when.

Ioffe & Szegedy 2015 (arXiv 1502.03167). In training a batch is normalized with
its own statistics (Algorithm 1) and moving averages follow them; at inference,
and when the layer is frozen, the moving averages are used.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_bn import moving_averages, ops

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_bn")
class BatchNormalization(keras.layers.Layer):
    """Batch normalization; replaces `keras.layers.BatchNormalization`.

    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta` per feature,
    with a backward pass written by hand and statistics whose rounding error
    does not grow with the mean of the input.

    With `training=True` and `trainable=True` mean and variance are the
    batch's, over all axes but `axis`, and the moving averages move towards
    them. Otherwise (inference, or `trainable=False` as in Keras) mean and
    variance are the moving averages.

    Args:
        axis: The feature axis or axes, each in `[-rank, rank - 1]`. Several
            axes give one mean, variance, gamma and beta per combination: with
            `(1, 2, 3)` on `[N, H, W, C]`, one per activation.
        momentum: Weight of the old moving average, in `[0, 1]`.
        epsilon: Added to the variance; 0 or more.
        center: Whether to learn `beta`.
        scale: Whether to learn `gamma`.
        beta_initializer: Initializer of `beta`.
        gamma_initializer: Initializer of `gamma`.
        moving_mean_initializer: Initializer of `moving_mean`.
        moving_variance_initializer: Initializer of `moving_variance`, which
            is biased (`1/m`).
        beta_regularizer: Regularizer of `beta`.
        gamma_regularizer: Regularizer of `gamma`.
        beta_constraint: Constraint on `beta`.
        gamma_constraint: Constraint on `gamma`.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Attributes:
        gamma: Scale `[*features]`, float32 or float64, or `None`.
        beta: Shift `[*features]`, likewise, or `None`.
        moving_mean: Moving average of the batch means `[*features]`.
        moving_variance: Moving average of the biased batch variances
            `[*features]`.

    Call arguments:
        inputs: Floating point tensor of rank 2 or more.
        training: Whether to use and follow the batch's statistics.

    Returns:
        A tensor of the shape of `inputs`, in the layer's compute dtype.

    Raises:
        ValueError: At construction for a `momentum` or `epsilon` out of range;
            when built for an `axis` out of range, repeated, covering every
            axis, or of undefined size.

    Reference: Ioffe & Szegedy 2015, arXiv 1502.03167.
    """

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = axis if isinstance(axis, int) else tuple(axis)
        self.momentum = _checked_momentum(momentum)
        self.epsilon = ops.checked_epsilon(epsilon)
        self.center = bool(center)
        self.scale = bool(scale)
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.moving_mean_initializer = keras.initializers.get(
            moving_mean_initializer
        )
        self.moving_variance_initializer = keras.initializers.get(
            moving_variance_initializer
        )
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.supports_masking = True
        self.gamma: Any = None
        self.beta: Any = None
        self.moving_mean: Any = None
        self.moving_variance: Any = None
        self._reduction_axes: tuple[int, ...] = ()

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the weights for the feature axes of `input_shape`."""
        rank = len(input_shape)
        axes = ops.canonical_axes(self.axis, rank, name="axis")
        if len(axes) == rank:
            raise ValueError(
                "axis must leave at least one axis to take statistics over. "
                f"Received: axis={self.axis} for an input of rank {rank}"
            )
        features = {axis: input_shape[axis] for axis in axes}
        if None in features.values():
            raise ValueError(
                "Feature axes must have a defined size. Received: "
                f"axis={self.axis}, input_shape={tuple(input_shape)}"
            )
        self._reduction_axes = tuple(
            axis for axis in range(rank) if axis not in axes
        )
        self._add_weights(tuple(features.values()))
        self.input_spec = keras.layers.InputSpec(ndim=rank, axes=features)

    def _add_weights(self, shape: tuple[int | None, ...]) -> None:
        if self.scale:
            self.gamma = self.add_weight(
                name="gamma",
                shape=shape,
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
                autocast=False,
            )
        if self.center:
            self.beta = self.add_weight(
                name="beta",
                shape=shape,
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
                autocast=False,
            )
        self.moving_mean = self.add_weight(
            name="moving_mean",
            shape=shape,
            initializer=self.moving_mean_initializer,
            trainable=False,
            autocast=False,
        )
        self.moving_variance = self.add_weight(
            name="moving_variance",
            shape=shape,
            initializer=self.moving_variance_initializer,
            trainable=False,
            autocast=False,
        )

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Normalizes `inputs`; see the class."""
        if not (training and self.trainable):
            return self._normalize_with_moving_statistics(inputs)
        outputs, batch_mean, batch_variance = ops.batch_norm(
            inputs,
            self.gamma,
            self.beta,
            axes=self._reduction_axes,
            epsilon=self.epsilon,
        )
        self._follow(self.moving_mean, batch_mean)
        self._follow(self.moving_variance, batch_variance)
        return keras.ops.cast(outputs, self.compute_dtype)

    def _normalize_with_moving_statistics(self, inputs: Tensor) -> Tensor:
        outputs = ops.apply_statistics(
            inputs,
            self.moving_mean,
            self.moving_variance,
            self.gamma,
            self.beta,
            axes=self._reduction_axes,
            epsilon=self.epsilon,
        )
        return keras.ops.cast(outputs, self.compute_dtype)

    def _follow(self, moving: Any, value: Tensor) -> None:
        value = keras.ops.cast(value, moving.dtype)
        moving.assign(
            moving_averages.exponential(
                moving.value, value, momentum=self.momentum
            )
        )

    def compute_output_shape(
        self, input_shape: Sequence[int | None]
    ) -> tuple[int | None, ...]:
        """The shape of the input."""
        ops.canonical_axes(self.axis, len(input_shape), name="axis")
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Arguments from which `from_config` makes the same layer."""
        return {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            **{
                f"{name}_initializer": keras.initializers.serialize(
                    getattr(self, f"{name}_initializer")
                )
                for name in ("beta", "gamma", "moving_mean", "moving_variance")
            },
            **{
                f"{name}_regularizer": keras.regularizers.serialize(
                    getattr(self, f"{name}_regularizer")
                )
                for name in ("beta", "gamma")
            },
            **{
                f"{name}_constraint": keras.constraints.serialize(
                    getattr(self, f"{name}_constraint")
                )
                for name in ("beta", "gamma")
            },
        }


def _checked_momentum(momentum: float) -> float:
    value = float(momentum)
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"momentum must lie in [0, 1]. Received: momentum={momentum}"
        )
    return value
