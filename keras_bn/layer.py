# SPDX-License-Identifier: Apache-2.0
"""The Keras layer: weights, configuration, and which statistics apply when.

Ioffe & Szegedy 2015 (arXiv 1502.03167). In training each batch is normalized
with its own statistics (Algorithm 1), which update the moving averages; at
inference, and when the layer is frozen, the moving averages are used.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras

from keras_bn import (
    arguments,
    checks,
    masks,
    moving_averages,
    ops,
    renorm as batch_renorm,
    virtual_batches,
)

Tensor = Any


class _Batch(NamedTuple):
    """A normalized batch, and the statistics it had."""

    outputs: Tensor
    mean: Tensor
    variance: Tensor
    count: Tensor  # May be an int, but that annotation hides tuple.count.

    def usable(self, *, least: int = 1) -> Tensor:
        """Where a moving average may follow; see `moving_averages.usable`."""
        return moving_averages.usable(self.variance, self.count, least=least)


@keras.saving.register_keras_serializable(package="keras_bn")
class BatchNormalization(keras.layers.Layer):
    """Batch normalization; replaces `keras.layers.BatchNormalization`.

    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta` per feature,
    with a backward pass written by hand and statistics whose rounding error
    does not grow with the mean of the input.

    With `training=True` and `trainable=True` mean and variance are the
    batch's, over all axes except `axis`, and the moving averages move towards
    them. Otherwise (inference, or `trainable=False` as in Keras) mean and
    variance are the moving averages.

    A batch cannot spoil the moving averages. They are not updated for a
    feature whose statistic is not finite or has no values (an empty or fully
    masked batch). Nor is the moving variance updated for a feature with a
    single value, whose variance is 0 by definition.

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
        moving_variance_initializer: Initializer of `moving_variance`.
        beta_regularizer: Regularizer of `beta`.
        gamma_regularizer: Regularizer of `gamma`.
        beta_constraint: Constraint on `beta`.
        gamma_constraint: Constraint on `gamma`.
        renorm: Whether to use Batch Renormalization (arXiv 1702.03275), which
            in training corrects the output towards the moving statistics.
        renorm_clipping: Limits `rmin`, `rmax`, `dmax` of the correction; a
            missing key means no limit.
        renorm_momentum: Weight of the old average in the moving statistics
            that the correction uses, in `[0, 1]`.
        synchronized: Whether statistics are taken over the batches of all
            replicas of a `tf.distribute` strategy.
        moving_variance_estimator: `"biased"` (`1/m`, as in Keras) or
            `"unbiased"` (`1/(m-1)`, as in Algorithm 2): which variance of a
            batch the moving average follows.
        moving_average: `"exponential"`, or `"cumulative"`: the plain mean
            over all batches since the layer was built or last reset by
            `reset_moving_statistics()`; `momentum` is then unused.
        virtual_batch_size: Number of examples in a virtual batch. Each
            virtual batch is normalized separately (ghost batch normalization,
            arXiv 1705.08741); the last may be smaller. `None` normalizes the
            whole batch.
        activation: Keras activation applied to the output, or `None`. Those
            that `keras_bn.ops.fused_activations()` lists are fused with the
            normalization into one operation with one backward pass.
        keeps: Which tensor training keeps for the backward pass, `"input"` or
            `"output"`. With `"output"` the input can be freed once the output
            is computed, which saves up to half of a network's memory (arXiv
            1712.02616). `activation` must then have an inverse (`None`,
            leaky_relu, elu), and a gamma within 1e-3 of 0 is replaced by 1e-3
            with its sign.
        single_value: What to do in training if a feature has only one value
            in a batch or in a virtual batch (the last may be that small):
            `"warn"` once, or raise an `"error"`. There is no warning with a
            mask, with `synchronized`, or if the batch size is unknown until
            the graph runs.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Attributes:
        gamma: Scale `[*features]`, or `None`.
        beta: Shift `[*features]`, or `None`.
        moving_mean: Moving average of the batch means `[*features]`, float32
            at least.
        moving_variance: Moving average of the batch variances, likewise.

    Call arguments:
        inputs: Floating point tensor of rank 2 or more.
        training: Whether to normalize with the batch's statistics and update
            the moving averages.
        mask: Boolean, broadcastable to the shape of `inputs` without its last
            axis: the positions that enter the statistics. All positions are
            normalized.

    Returns:
        A tensor of the shape of `inputs`, in the layer's compute dtype.

    Raises:
        ValueError: At construction, if an argument is out of range or two
            exclude each other; when built, if `axis` is out of range,
            repeated, of undefined size, covers every axis, or names axis 0
            with virtual batches; when called, if the input is of integers or
            ragged, or the mask of another shape.

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
        renorm: bool = False,
        renorm_clipping: Mapping[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        *,
        moving_variance_estimator: Literal["biased", "unbiased"] = "biased",
        moving_average: Literal["exponential", "cumulative"] = "exponential",
        virtual_batch_size: int | None = None,
        activation: Any = None,
        keeps: Literal["input", "output"] = "input",
        single_value: Literal["warn", "error"] = "warn",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = arguments.integers("axis", axis)
        self.momentum = arguments.fraction("momentum", momentum)
        self.epsilon = checks.checked_epsilon(epsilon)
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
        self.renorm = bool(renorm)
        self.renorm_clipping = renorm_clipping
        if renorm:
            self.renorm_clipping = batch_renorm.checked_clipping(
                renorm_clipping
            )
        self.renorm_momentum = arguments.fraction(
            "renorm_momentum", renorm_momentum
        )
        self.synchronized = bool(synchronized)
        self.moving_variance_estimator = arguments.one_of(
            "moving_variance_estimator",
            moving_variance_estimator,
            ("biased", "unbiased"),
        )
        self.moving_average = arguments.one_of(
            "moving_average", moving_average, ("exponential", "cumulative")
        )
        self.virtual_batch_size = arguments.optional_size(
            "virtual_batch_size", virtual_batch_size
        )
        self.activation = (
            None if activation is None else keras.activations.get(activation)
        )
        self.keeps = arguments.one_of("keeps", keeps, ("input", "output"))
        self.single_value = arguments.one_of(
            "single_value", single_value, ("warn", "error")
        )
        self._refuse_impossible_combinations()
        if self.keeps == "output" and self.activation is not None:
            within, after = self._split_activation()
            ops.checked_activation(str(after or within), keeps=self.keeps)
        self.supports_masking = True
        self.gamma: Any = None
        self.beta: Any = None
        self.moving_mean: Any = None
        self.moving_variance: Any = None
        self.moving_stddev: Any = None
        self.renorm_mean: Any = None
        self.renorm_stddev: Any = None
        self.mean_updates: Any = None
        self.variance_updates: Any = None
        self._reduction_axes: tuple[int, ...] = ()
        self._warned = False

    def _refuse_impossible_combinations(self) -> None:
        defaults = {
            "renorm": False,
            "keeps": "input",
            "synchronized": False,
            "virtual_batch_size": None,
            "moving_average": "exponential",
            "moving_variance_estimator": "biased",
        }
        arguments.excluding(
            {
                name: getattr(self, name)
                for name, default in defaults.items()
                if getattr(self, name) != default
            },
            ("virtual_batch_size", "synchronized"),
            # Renorm follows exponential averages of the standard deviation.
            ("renorm", "virtual_batch_size"),
            ("renorm", "moving_average"),
            ("renorm", "moving_variance_estimator"),
            # What renorm adds depends on the moving statistics.
            ("renorm", "keeps"),
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the weights for the feature axes of `input_shape`."""
        rank = len(input_shape)
        axes = checks.canonical_axes(self.axis, rank, name="axis")
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
        if self.virtual_batch_size and 0 in axes:
            raise ValueError(
                "axis must leave the batch, axis 0, out where "
                f"virtual_batch_size is given. Received: axis={self.axis}"
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
        for name, initializer in self._initial_statistics().items():
            setattr(self, name, self._add_statistic(name, shape, initializer))

    def _initial_statistics(self) -> dict[str, Any]:
        """The layer's statistics by name, with their initializers."""
        mean = self.moving_mean_initializer
        variance = self.moving_variance_initializer
        initial = {"moving_mean": mean, "moving_variance": variance}
        if self.renorm:
            # From those before them: an initializer may draw anew.
            def root(*_: Any, **__: Any) -> Tensor:
                return keras.ops.sqrt(self.moving_variance.value)

            def same(*_: Any, **__: Any) -> Tensor:
                return keras.ops.copy(self.moving_mean.value)

            initial["moving_stddev"] = root
            initial["renorm_mean"] = same
            initial["renorm_stddev"] = root
        if self.moving_average == "cumulative":
            initial["mean_updates"] = keras.initializers.Zeros()
            initial["variance_updates"] = keras.initializers.Zeros()
        return initial

    def reset_moving_statistics(self) -> None:
        """Sets the moving statistics to what their initializers give.

        The statistics that renorm corrects with are reset too. A cumulative
        average forgets earlier batches: the next batch starts it anew.

        Raises:
            ValueError: If the layer is not built.
        """
        if not self.built:
            raise ValueError(f"layer must be built. Received: {self.name}")
        for name, initializer in self._initial_statistics().items():
            variable = getattr(self, name)
            variable.assign(initializer(variable.shape, dtype=variable.dtype))

    def _add_statistic(
        self, name: str, shape: tuple[int | None, ...], initializer: Any
    ) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            # A variance overflows float16 long before its inputs do.
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            initializer=initializer,
            trainable=False,
            autocast=False,
            aggregation=moving_averages.aggregation(
                synchronized=self.synchronized
            ),
        )

    def call(
        self,
        inputs: Tensor,
        training: bool | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Normalizes `inputs`; see the class."""
        checks.require_dense(inputs)
        if mask is not None:
            masks.require_aligned(mask, inputs)
        if training and self.trainable:
            outputs = self._normalize_and_follow(inputs, mask)
        else:
            outputs = self._normalize_as_at_inference(inputs)
        return keras.ops.cast(outputs, self.compute_dtype)

    def _normalize_as_at_inference(self, inputs: Tensor) -> Tensor:
        gamma = self.gamma
        if self.keeps == "output" and gamma is not None:
            gamma = ops.away_from_zero(gamma)
        within, after = self._split_activation()
        outputs = ops.apply_statistics(
            inputs,
            self.moving_mean,
            self.moving_variance,
            gamma,
            self.beta,
            axes=self._reduction_axes,
            epsilon=self.epsilon,
            activation=within,
        )
        return outputs if after is None else after(outputs)

    def _normalize_and_follow(
        self, inputs: Tensor, mask: Tensor | None
    ) -> Tensor:
        mask = masks.expanded(mask)
        if self.renorm:
            after = self.activation
            batch = self._normalize(inputs, mask, None, None)
            outputs = self._renormalize(batch)
            self._follow_for_renorm(batch)
        else:
            within, after = self._split_activation()
            batch = self._normalize(
                inputs,
                mask,
                self.gamma,
                self.beta,
                activation=within,
                keeps=self.keeps,
            )
            outputs = batch.outputs
            self._follow(batch)
        return outputs if after is None else after(outputs)

    def _split_activation(self) -> tuple[str, Any]:
        """The fused activation's name, and the activation to apply after."""
        name = getattr(self.activation, "__name__", "")
        fused = name in ops.fused_activations()
        if fused and keras.activations.get(name) is self.activation:
            return name, None
        return "linear", self.activation

    def _normalize(
        self,
        x: Tensor,
        mask: Tensor | None,
        gamma: Any,
        beta: Any,
        **options: Any,
    ) -> _Batch:
        """Normalizes with the statistics of the batch, or virtual batches."""
        size = self.virtual_batch_size
        axes: Sequence[int] = self._reduction_axes
        if size is None:
            outputs, mean, variance, count = ops.counted_batch_norm(
                x,
                gamma,
                beta,
                axes=axes,
                epsilon=self.epsilon,
                mask=mask,
                synchronized=self.synchronized,
                **options,
            )
            self._mind_single_values(x, mask, count)
            variance = self._estimate(variance, count)
            return _Batch(outputs, mean, variance, count)
        parts, counted = virtual_batches.split(x, mask, size)
        outputs, mean, variance, count = ops.counted_batch_norm(
            parts,
            gamma,
            beta,
            axes=[axis + 1 for axis in axes],
            epsilon=self.epsilon,
            mask=counted,
            **options,
        )
        self._mind_single_values(x, mask, count)
        # Moving averages follow statistics pooled over the virtual batches.
        count = keras.ops.cast(count, mean.dtype)
        several = count * keras.ops.cast(count > 1, count.dtype)
        return _Batch(
            virtual_batches.join(outputs, x),
            virtual_batches.pooled(mean, count),
            virtual_batches.pooled(self._estimate(variance, count), several),
            virtual_batches.largest(count, mean),
        )

    def _estimate(self, variance: Tensor, count: Tensor | int) -> Tensor:
        """The variance that the moving average follows."""
        if self.moving_variance_estimator == "biased":
            return variance
        return moving_averages.unbiased(variance, count)

    def _renormalize(self, batch: _Batch) -> Tensor:
        std = keras.ops.sqrt(batch.variance + self.epsilon)
        r, d = batch_renorm.corrections(
            batch.mean,
            std,
            self.renorm_mean.value,
            # Early in training it may be below sqrt(epsilon), a batch's least.
            keras.ops.maximum(self.renorm_stddev.value, self.epsilon**0.5),
            clipping=self.renorm_clipping or {},
        )
        scale, shift = r, d
        if self.gamma is not None:
            gamma = keras.ops.cast(self.gamma, r.dtype)
            scale, shift = r * gamma, d * gamma
        if self.beta is not None:
            shift = shift + keras.ops.cast(self.beta, shift.dtype)
        return ops.scale_and_shift(
            batch.outputs, scale, shift, axes=self._reduction_axes
        )

    def _follow(self, batch: _Batch) -> None:
        moving_averages.follow(
            self.moving_mean,
            batch.mean,
            batch.usable(),
            momentum=self.momentum,
            updates=self.mean_updates,
        )
        moving_averages.follow(
            self.moving_variance,
            batch.variance,
            batch.usable(least=2),
            momentum=self.momentum,
            updates=self.variance_updates,
        )

    def _follow_for_renorm(self, batch: _Batch) -> None:
        """Averages the standard deviation; derives the variance, as Keras."""
        std = keras.ops.sqrt(batch.variance + self.epsilon)
        usable, several = batch.usable(), batch.usable(least=2)
        for moving_mean, moving_std, momentum in (
            (self.renorm_mean, self.renorm_stddev, self.renorm_momentum),
            (self.moving_mean, self.moving_stddev, self.momentum),
        ):
            moving_averages.follow(
                moving_mean, batch.mean, usable, momentum=momentum
            )
            moving_averages.follow(moving_std, std, several, momentum=momentum)
        derived = keras.ops.square(self.moving_stddev.value) - self.epsilon
        self.moving_variance.assign(
            keras.ops.where(
                several, keras.ops.relu(derived), self.moving_variance.value
            )
        )

    def _mind_single_values(
        self, inputs: Tensor, mask: Tensor | None, count: Tensor | int
    ) -> None:
        if self.single_value == "error":
            ops.require_several_values(count)
            return
        sizes = [inputs.shape[axis] for axis in self._reduction_axes]
        if self.virtual_batch_size is not None:
            sizes[0] = virtual_batches.smallest(
                sizes[0], self.virtual_batch_size
            )
        unknown = mask is not None or self.synchronized
        if self._warned or unknown or sizes != [1] * len(sizes):
            return
        self._warned = True
        warnings.warn(
            f"{self.name} was trained on a batch, or virtual batch, with a "
            f"single value per feature (input shape {tuple(inputs.shape)}): "
            "its variance is 0, every output of it is beta, and the moving "
            "variance does not follow it.",
            stacklevel=2,
        )

    def compute_output_shape(
        self, input_shape: Sequence[int | None]
    ) -> tuple[int | None, ...]:
        """The shape of the input."""
        checks.canonical_axes(self.axis, len(input_shape), name="axis")
        return tuple(input_shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """See Keras; raises `ValueError` for integers, before any data."""
        # A subclass with a call of its own may accept other inputs.
        if type(self).call is BatchNormalization.call:
            checks.require_floating(args[0] if args else kwargs["inputs"])
        return super().compute_output_spec(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Arguments from which `from_config` makes the same layer."""
        plain = (
            "axis",
            "momentum",
            "epsilon",
            "center",
            "scale",
            "renorm",
            "renorm_clipping",
            "renorm_momentum",
            "synchronized",
            "moving_variance_estimator",
            "moving_average",
            "virtual_batch_size",
            "keeps",
            "single_value",
        )
        config = {
            **super().get_config(),
            **{name: getattr(self, name) for name in plain},
        }
        if self.renorm_clipping is not None:
            # Keras wraps dictionaries that are attributes.
            config["renorm_clipping"] = dict(self.renorm_clipping)
        parts = (
            *("beta_initializer", "gamma_initializer"),
            *("moving_mean_initializer", "moving_variance_initializer"),
            *("beta_regularizer", "gamma_regularizer"),
            *("beta_constraint", "gamma_constraint"),
        )
        for name in parts:
            config[name] = keras.saving.serialize_keras_object(
                getattr(self, name)
            )
        config["activation"] = (
            None
            if self.activation is None
            else keras.activations.serialize(self.activation)
        )
        return config
