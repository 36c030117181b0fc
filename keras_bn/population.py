# SPDX-License-Identifier: Apache-2.0
"""Population statistics of a trained model: Algorithm 2 of the paper.

Ioffe & Szegedy 2015 (arXiv 1502.03167), Algorithm 2: with the weights fixed,
the training network runs over many mini-batches, and the statistics that
inference uses are estimated from those of the batches, in one of the two ways
that `keras_bn.statistics` describes.

**What a deeper layer sees.** One pass over the data serves all layers. During
the pass, the layers being estimated normalize each batch with the batch's own
statistics, as in training. Every other layer runs in inference mode: dropout is
off, and BN layers that are not estimated use the statistics they have. A batch
with a single value per feature cannot be normalized with its own statistics;
the layer's present statistics are used instead.
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NoReturn

import keras
import numpy as np

from keras_bn import arguments, checks, ops, statistics, structure
from keras_bn.statistics import POOLINGS, Statistics

Layer = Any  # keras.layers.Layer is untyped for mypy.
Tensor = Any

#: Examples of a batch that arrays are cut into by default, as in Keras.
_BATCH_SIZE = 32


def estimate_population_statistics(
    model: keras.Model,
    dataset: Any,
    *,
    steps: int | None = None,
    pooling: Literal["paper", "exact"] = "paper",
    layers: Sequence[str] | None = None,
    batch_size: int | None = None,
    verbose: int | str = "auto",
) -> list[str]:
    """Sets the moving statistics of BN layers to those of a data set.

    One pass over the data for all layers, ours or Keras', nested, shared or
    frozen. Nothing else of the model changes: neither weights nor optimizer,
    metrics, random seeds or states of other layers. The statistics are set
    after the pass; if it fails, the model is as it was. See the module for
    what deeper layers see.

    Virtual batches (`virtual_batch_size`) and renormalization are ignored:
    batches are normalized whole, and the statistics that renormalization
    corrects with stay. Cumulative averages then count, for each feature, the
    batches that had a value of it, and continue from there.

    Args:
        model: A built model of any kind.
        dataset: What `model.predict` takes: an array `[N, ...]` or a
            structure of them, or a `tf.data.Dataset`, `PyDataset`, data
            loader or generator of batches, as `x` (a generator, as `(x,)`),
            `(x, y)` or `(x, y, sample_weight)`. Labels and weights are not
            used.
        steps: Batches to take; `None` takes all.
        pooling: `"paper"` or `"exact"`.
        layers: Names of the BN layers to estimate; `None` takes all, frozen
            ones too. The others keep their statistics and normalize with
            them.
        batch_size: Examples of a batch where `dataset` holds arrays; `None`
            means 32, as in Keras.
        verbose: Progress bar, as in `model.predict`.

    Returns:
        The names of the layers whose statistics were set.

    Raises:
        ValueError: If an argument is out of range; the model has no such
            layer or is not built; the data are empty; a layer is not called,
            or is called in a loop, a condition or a `tf.function`; statistics
            are not finite in float64 or in the layer's dtype; no batch gives
            statistics (`"paper"` needs several values per feature); or the
            scope is that of a strategy with several replicas.
    """
    chosen = _chosen(model, layers)
    run = _Pass(model, chosen, arguments.one_of("pooling", pooling, POOLINGS))
    return run.estimate(dataset, steps, batch_size, verbose)


class PopulationStatistics(keras.callbacks.Callback):
    """Estimates population statistics before each validation.

    Validation then measures the network of Algorithm 2, not one whose moving
    averages lag behind. The estimated statistics stay, so a checkpoint saved
    after the validation holds what was validated. Training is unaffected,
    because it uses each batch's own statistics; the moving averages continue
    from better values.

    Args:
        dataset: As in `estimate_population_statistics`, but it must allow
            repeated passes.
        steps: Batches to take before each validation; `None` takes all.
        pooling: `"paper"` or `"exact"`.
        layers: Names of the BN layers to estimate; `None` takes those that
            train: the network was trained around the frozen ones' statistics.
        batch_size: Examples of a batch if `dataset` holds arrays.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        steps: int | None = None,
        pooling: Literal["paper", "exact"] = "paper",
        layers: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.steps = steps
        self.pooling = arguments.one_of("pooling", pooling, POOLINGS)
        self.layers = layers
        self.batch_size = batch_size
        self._pass: _Pass | None = None

    def on_test_begin(self, logs: Any = None) -> None:
        """Called by Keras where a validation begins."""
        del logs
        chosen = _chosen(
            self.model, self.layers, frozen=self.layers is not None
        )
        # A pass is compiled once and serves as long as it fits.
        if self._pass is None or self._pass.estimated != chosen:
            self._pass = _Pass(self.model, chosen, self.pooling)
        self._pass.estimate(self.dataset, self.steps, self.batch_size, 0)


class _Pass(keras.Model):
    """A pass over data; Keras compiles it, feeds it and shows its progress."""

    def __init__(
        self, network: keras.Model, layers: Sequence[Layer], pooling: str
    ) -> None:
        super().__init__()
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "population statistics must be estimated outside the scope "
                f"of a strategy. Received: one with {replicas} replicas"
            )
        self.network = network
        self.estimated = list(layers)
        self._pooling = pooling
        self._pools = [
            Statistics(*(_zeros(layer) for _ in Statistics._fields))
            for layer in layers
        ]
        self._batches = [_zeros(layer) for layer in layers]

    def estimate(
        self,
        dataset: Any,
        steps: int | None,
        batch_size: int | None,
        verbose: int | str,
    ) -> list[str]:
        """Runs the pass, sets the statistics; returns the layers' names."""
        arguments.optional_size("steps", steps)
        arguments.optional_size("batch_size", batch_size)
        parts = keras.tree.flatten(dataset)
        if all(part is None for part in parts):
            raise ValueError(
                f"dataset must have a batch. Received: dataset={dataset}"
            )
        if batch_size is None and all(
            x is None or hasattr(x, "shape") for x in parts
        ):
            # Keras would cut arrays into `steps` batches, however large.
            batch_size = _BATCH_SIZE
        for variable in keras.tree.flatten((self._pools, self._batches)):
            variable.assign(keras.ops.zeros_like(variable))
        with warnings.catch_warnings():
            if steps is None:  # A generator's end is then no surprise.
                warnings.filterwarnings("ignore", "Your input ran out of data")
            try:
                self.predict(dataset, batch_size, verbose=verbose, steps=steps)
            except UnboundLocalError as error:  # Keras, where no batch came.
                raise ValueError(
                    "dataset must have a batch. Received: an empty one"
                ) from error
        found = list(map(_checked, self.estimated, self._pools))
        for layer, (_, mean, variance), batches in zip(
            self.estimated, found, self._batches, strict=True
        ):
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
            if getattr(layer, "renorm", False):
                # The next training step derives the variance from it.
                layer.moving_stddev.assign((variance + layer.epsilon) ** 0.5)
            if getattr(layer, "moving_average", None) == "cumulative":
                layer.mean_updates.assign(batches)
                layer.variance_updates.assign(batches)
        return [layer.name for layer in self.estimated]

    def predict_step(self, data: Any) -> Tensor:
        """Pools the statistics of a batch."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        network = self.network
        named = inspect.signature(network.call).parameters
        mode = {"training": False} if "training" in named else {}
        batches: list[tuple[Layer, Statistics]] = []
        with _listening(self.estimated, batches):
            # Whatever else the layers would change stays as it is.
            network.stateless_call(
                [variable.value for variable in network.trainable_variables],
                [v.value for v in network.non_trainable_variables],
                x,
                **mode,
            )
        heard = [layer for layer, _ in batches]
        for layer in self.estimated:
            if layer not in heard:
                _refuse(layer)
        for layer, batch in batches:
            i = self.estimated.index(layer)
            pooled, number = self._pools[i], self._batches[i]
            number.assign_add(keras.ops.cast(batch.weight > 0, "float64"))
            merged = statistics.merge(
                pooled,
                statistics.of_batch(batch, self._pooling),
                self._pooling,
            )
            for variable, value in zip(pooled, merged, strict=True):
                variable.assign(value)
        return keras.ops.zeros([1])


def _zeros(layer: Layer) -> keras.Variable:
    zeros = keras.ops.zeros(layer.moving_mean.shape, "float64")
    return keras.Variable(zeros, dtype="float64", trainable=False)


def _checked(layer: Layer, pooled: Statistics) -> Statistics:
    weight, mean, variance = (np.asarray(variable) for variable in pooled)
    if not weight.all():
        raise ValueError(
            "statistics need a batch with several values per feature, for "
            f'"exact" with one. Received: none for layer {layer.name}'
        )
    if not (np.isfinite(mean) & np.isfinite(variance)).all():
        raise ValueError(
            "statistics must be finite. Received: "
            f"NaN or infinity among the inputs of layer {layer.name}"
        )
    structure.require_fits(layer.moving_mean, mean, layer)
    structure.require_fits(layer.moving_variance, variance, layer)
    return Statistics(weight, mean, variance)


@contextlib.contextmanager
def _listening(
    layers: Sequence[Layer], batches: list[tuple[Layer, Statistics]]
) -> Iterator[None]:
    """Within, these layers use, and record, the batch's statistics."""
    graph = _graph_of(keras.ops.zeros([]))

    def listening(layer: Layer) -> Callable[..., Tensor]:
        def call(
            inputs: Tensor, training: Any = None, mask: Tensor | None = None
        ) -> Tensor:
            del training
            outputs, batch = _normalize(layer, inputs, mask)
            if _graph_of(batch.mean) is not graph:
                # At once: a tf.function would keep a trace that listens.
                _refuse(layer)
            batches.append((layer, batch))
            return outputs

        return call

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(
                structure.patched(layer, "call", listening(layer))
            )
        yield


def _graph_of(tensor: Tensor) -> Any:
    """The graph that computes a tensor; `None` for an eager one."""
    return getattr(tensor, "graph", None)


def _refuse(layer: Layer) -> NoReturn:
    raise ValueError(
        "statistics can be taken of a layer that the model calls, but not in "
        "a loop, a condition or a tf.function, such as an RNN with "
        f"unroll=False or keras.ops.cond. Received: layer {layer.name}"
    )


def _normalize(
    layer: Layer, inputs: Tensor, mask: Tensor | None
) -> tuple[Tensor, Statistics]:
    """The layer's output for a batch, as in training, and the statistics."""
    x = keras.ops.cast(inputs, "float64")
    features = checks.canonical_axes(layer.axis, len(x.shape), name="axis")
    axes = [axis for axis in range(len(x.shape)) if axis not in features]
    batch = statistics.of_values(x, axes, mask)
    several = batch.weight > 1
    outputs = ops.apply_statistics(
        x,
        keras.ops.where(several, batch.mean, _double(layer.moving_mean)),
        keras.ops.where(
            several, batch.variance, _double(layer.moving_variance)
        ),
        structure.gamma(layer),
        layer.beta,
        axes=axes,
        epsilon=layer.epsilon,
    )
    activation = structure.activation(layer)
    if activation is not None:
        outputs = activation(outputs)
    outputs = keras.ops.cast(outputs, layer.compute_dtype)
    return outputs, batch


def _double(variable: Tensor) -> Tensor:
    return keras.ops.cast(variable, "float64")


def _chosen(
    model: keras.Model, names: Sequence[str] | None, *, frozen: bool = True
) -> list[Layer]:
    """The built BN layers of these names, or all, in the order of the model.

    A layer that is not built has never been called.
    """
    structure.require_built(model)
    found = [
        layer
        for layer in structure.batch_normalizations(model)
        if layer.built and (frozen or layer.trainable)
    ]
    if not found:
        kind = "BN layers" if frozen else "BN layers that train"
        raise ValueError(f"model must have {kind}. Received: {model.name}")
    there = [layer.name for layer in found]
    if isinstance(names, str):
        raise ValueError(
            f"layers must be a list of names. Received: layers={names!r}"
        )
    for name in names or ():
        if name not in there:
            raise ValueError(
                f"layers must be among {', '.join(there)}. Received: {name}"
            )
    return [x for x in found if names is None or x.name in names]
