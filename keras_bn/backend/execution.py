# SPDX-License-Identifier: Apache-2.0
"""Steps of training and evaluation, on one device or on many.

A step is the same whatever runs it: the gradient of the mean loss over the
whole batch, however the batch is divided, and Keras' optimizer. On one device,
data that fit into memory stay on the device and many steps are one compiled
loop. All other data come from tf.data and pass through tf.distribute, one step
at a time.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bn.backend import replicas, strategies
from keras_bn.failures import InputError, readable

Tensor = Any  # tf.Tensor is untyped for mypy.
#: What a step reports: loss and accuracy.
METRICS = ("loss", "accuracy")
#: The share of an auxiliary head in the loss (Szegedy et al. 2014).
AUXILIARY_WEIGHT = 0.3


class Steps(Protocol):
    """Steps of one model on one data set."""

    def train(self, step: int, count: int) -> NDArray[np.float32]:
        """Trains steps `step + 1 .. step + count`, or fewer if it must stop.

        Returns:
            `[count, 2]`: loss and accuracy of each step's batch, before the
            step.

        Raises:
            InputError: If the batch of the first step cannot be read; with
                several processes, if that of any step cannot.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracy over all test examples."""
        ...

    def batch(self, step: int) -> Tensor:
        """The inputs of the whole batch that follows `step` steps."""
        ...


class ResidentSteps:
    """Steps with data on the one device; each call is one compiled loop.

    The loop's trip count is an argument: however a run is divided into calls,
    the same program does the same arithmetic, so the weights do not depend on
    the division.

    Args:
        model: A compiled and built model.
        dataset: A `keras_bn.data.ArrayDataset`.
        rows: `rows(step, count)`: indices `[count, batch_size]`.
        capacity: Most steps that one call may bring.
        jit_compile: Whether XLA compiles the loop.
        test_batch: Examples of one evaluation step.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: Any,
        rows: Callable[[int, int], NDArray[np.int32]],
        *,
        capacity: int,
        jit_compile: bool,
        test_batch: int,
    ) -> None:
        train_step = make_train_step(model)

        # The data are not captured: TensorFlow keeps graphs, and with them what
        # they captured, for as long as the process lives.
        @tf.function(jit_compile=jit_compile, autograph=False)
        def execute(
            x: Tensor, y: Tensor, rows: Tensor, count: Tensor
        ) -> Tensor:
            def one_step(step: Tensor, metrics: Tensor) -> tuple[Tensor, ...]:
                batch = tf.gather(x, rows[step]), tf.gather(y, rows[step])
                return step + 1, metrics.write(step, train_step(*batch))

            metrics = tf.TensorArray(
                keras.config.floatx(), capacity, element_shape=[len(METRICS)]
            )
            loop = (tf.constant(0), metrics)
            _, metrics = tf.while_loop(
                lambda step, _: step < count, one_step, loop
            )
            return metrics.stack()

        self._execute = execute
        self._x = tf.constant(dataset.x_train)
        self._y = tf.constant(dataset.y_train)
        self._rows = rows
        self._capacity = capacity
        self._test_x = tf.constant(dataset.x_test)
        self._test_y = tf.constant(dataset.y_test)
        self._test_batch = test_batch
        self._test_step = tf.function(
            make_test_step(model), reduce_retracing=True
        )

    def train(self, step: int, count: int) -> NDArray[np.float32]:
        """See `Steps`."""
        rows = self._rows(step, count)
        padded = np.zeros((self._capacity, rows.shape[1]), np.int32)
        padded[:count] = rows
        metrics = self._execute(
            self._x, self._y, tf.constant(padded), tf.constant(count)
        )
        return np.asarray(metrics)[:count]

    def evaluate(self) -> dict[str, float]:
        """See `Steps`."""
        size, examples = self._test_batch, len(self._test_x)
        return _means(
            self._test_step(
                self._test_x[first : first + size],
                self._test_y[first : first + size],
            )
            for first in range(0, examples, size)
        )

    def batch(self, step: int) -> Tensor:
        """See `Steps`."""
        return tf.gather(self._x, self._rows(step, 1)[0])


class StreamedSteps:
    """Steps with batches from tf.data; each replica gets its own part.

    Args:
        model: A compiled and built model, made within the strategy's scope.
        train_part: `train_part(step, part)`: batches from that step on, of
            which `part = (i, n)` asks for the i-th of n shares.
        test_part: `test_part(part)`: the test batches, likewise; every part
            has the same number.
        strategy: Where to train.
        jit_compile: Whether XLA compiles a step; for a single device only.
    """

    def __init__(
        self,
        model: keras.Model,
        train_part: Callable[[int, tuple[int, int]], Any],
        test_part: Callable[[tuple[int, int]], Any],
        *,
        strategy: Any,
        jit_compile: bool,
    ) -> None:
        self._model = model
        self._train_part = train_part
        self._test_part = test_part
        self._strategy = strategy
        step = make_train_step(model)
        self._train_step = self._everywhere(
            tf.function(step, jit_compile=True) if jit_compile else step
        )
        self._test_step = self._everywhere(make_test_step(model))
        self._batches: Iterator[Any] | None = None
        self._position = -1

    def train(self, step: int, count: int) -> NDArray[np.float32]:
        """See `Steps`; fewer if a batch cannot be read or the run is to end."""
        if self._batches is None or step != self._position:
            self._batches = self._distributed(
                lambda part: self._train_part(step, part)
            )
        # Several processes have to make as many steps as each other.
        alone = not strategies.several_processes(self._strategy)
        metrics: list[Tensor] = []
        while len(metrics) < count:
            if metrics and alone and self._stops():
                break
            try:
                batch = next(self._batches)
            except InputError:
                self._batches = None  # The next call retries, and raises.
                if metrics and alone:
                    break
                raise
            metrics.append(self._train_step(*batch))
        self._position = step + len(metrics)
        return np.stack([np.asarray(m) for m in metrics])

    def _stops(self) -> bool:
        """Whether a signal or a callback has asked for the end."""
        return getattr(self._model, "stop_training", False)

    def evaluate(self) -> dict[str, float]:
        """See `Steps`."""
        batches = self._distributed(self._test_part)
        return _means(self._test_step(*batch) for batch in batches)

    def batch(self, step: int) -> Tensor:
        """See `Steps`."""
        return next(readable(lambda: self._train_part(step, (0, 1))))[0]

    def train_graph(self) -> Any:
        """The graph of a training step, for those who count operations."""
        batch = next(self._distributed(lambda part: self._train_part(0, part)))
        return self._train_step.get_concrete_function(*batch).graph

    def _distributed(
        self, part: Callable[[tuple[int, int]], Any]
    ) -> Iterator[Any]:
        """Iterates over what every replica of this process gets."""
        total = self._strategy.num_replicas_in_sync
        if total == 1:
            return readable(lambda: part((0, 1)).prefetch(2))

        def of_this_process(context: Any) -> Any:
            local = total // context.num_input_pipelines
            first = context.input_pipeline_id * local
            parts = [part((first + i, total)) for i in range(local)]
            turns = tf.data.Dataset.range(local).repeat()
            return tf.data.Dataset.choose_from_datasets(parts, turns)

        distribute = self._strategy.distribute_datasets_from_function
        return readable(lambda: distribute(of_this_process))

    def _everywhere(self, step: Callable[..., Tensor]) -> Any:
        """The step on all replicas; the result is the same on each."""
        strategy = self._strategy

        @tf.function(reduce_retracing=True)
        def run(x: Tensor, y: Tensor) -> Tensor:
            results = strategy.run(step, args=(x, y))
            return strategy.experimental_local_results(results)[0]

        return run


def make_train_step(model: keras.Model) -> Callable[[Tensor, Tensor], Tensor]:
    """One step on a replica's share of a batch.

    The loss is the mean over the examples of all replicas plus the model's
    penalties. The reported metrics are the same on every replica.

    Args:
        model: A model with an optimizer, whose outputs are logits
            `[N, classes]` and then those of auxiliary heads, if any.
    """
    # The optimizer would create its variables on first use, which must not be
    # inside a compiled loop. The scope places momentum like the weights.
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    weights = model.trainable_variables

    def train_step(x: Tensor, y: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            loss, correct, size = _sums(model, x, y, training=True)
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, weights)
        sums = replicas.total(tf.stack([loss, correct, size]))
        gradients = [g / tf.cast(sums[2], g.dtype) for g in gradients]
        model.optimizer.apply(gradients, weights)
        return sums[:2] / sums[2]

    return train_step


def make_test_step(model: keras.Model) -> Callable[[Tensor, Tensor], Tensor]:
    """A step that gives a batch's total loss, correct predictions and size."""

    def test_step(x: Tensor, y: Tensor) -> Tensor:
        sums = _sums(model, x, y, training=False)
        return replicas.total(tf.stack(sums))

    return test_step


def _sums(
    model: keras.Model, x: Tensor, y: Tensor, *, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch's total loss, number of correct predictions, and size.

    The loss is summed over the examples; each adds the model's penalties once.
    """
    logits, *auxiliary = tf.nest.flatten(model(x, training=training))
    losses = _cross_entropy(y, logits)
    if training:
        for head in auxiliary:
            losses += AUXILIARY_WEIGHT * _cross_entropy(y, head)
    right = tf.equal(tf.argmax(logits, -1, output_type=y.dtype), y)
    correct = tf.reduce_sum(tf.cast(right, losses.dtype))
    size = tf.cast(tf.shape(y)[0], losses.dtype)
    # `model.losses` holds the penalties of the call above.
    penalty = tf.cast(sum(model.losses, 0.0), losses.dtype)
    return tf.reduce_sum(losses) + size * penalty, correct, size


def _cross_entropy(y: Tensor, logits: Tensor) -> Tensor:
    return keras.losses.sparse_categorical_crossentropy(
        y, logits, from_logits=True
    )


def _means(sums: Iterator[Tensor]) -> dict[str, float]:
    """Means from sums and numbers of batches, added up in float64."""
    total = np.sum([np.asarray(s, np.float64) for s in sums], axis=0)
    means = total[:-1] / total[-1]
    return dict(zip(METRICS, means.tolist(), strict=True))
