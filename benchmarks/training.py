# SPDX-License-Identifier: Apache-2.0
"""Steps per second: our training path against plain Keras.

    python -m benchmarks.training --data_dir=DIR     MNIST; digits without it

The same network, weights, batch size, optimizer and number of steps:

- `ours`: what train.py runs, with our layer;
- `ours, measured`: the same with percentiles, Jacobians and test accuracy
  recorded as often as the recipe says;
- `keras fit`: `model.fit` on the arrays with keras.layers.BatchNormalization
  and every option at its default;
- `keras fit, tuned`: the same through a cached tf.data pipeline with 100
  steps per execution, the fastest that Keras alone offers here.
"""

import tempfile
from pathlib import Path

import tensorflow as tf
from absl import app, flags

from analysis import callbacks
from benchmarks import measure
from keras_bn import data, recipes, training
from keras_bn.data import ArrayDataset
from keras_bn.recipes import Recipe

FLAGS = flags.FLAGS


def ours(recipe: Recipe, dataset: ArrayDataset, *, measured: bool) -> None:
    """One run, including compilation, as a user sees it."""
    with tempfile.TemporaryDirectory() as folder:
        watchers = callbacks.for_run(Path(folder), recipe, dataset)
        training.run(
            recipe if measured else recipe.replace(evaluate_every=recipe.steps),
            dataset,
            callbacks=watchers if measured else [],
            progress=False,
        )


def keras_fit(recipe: Recipe, dataset: ArrayDataset, *, tuned: bool) -> None:
    """`fit` for the recipe's number of steps, building included."""
    model = training.build_model(
        recipe, input_shape=dataset.input_shape, classes=dataset.classes
    )
    per_epoch = len(dataset.x_train) // recipe.batch_size
    epochs, rest = divmod(recipe.steps, per_epoch)
    if not tuned:
        model.compile(
            optimizer=model.optimizer, loss=model.loss, metrics=["accuracy"]
        )
        used = per_epoch * recipe.batch_size
        x, y = dataset.x_train[:used], dataset.y_train[:used]
        model.fit(x, y, recipe.batch_size, epochs=epochs, verbose=0)
        count = rest * recipe.batch_size
        if count:
            model.fit(x[:count], y[:count], recipe.batch_size, verbose=0)
        return
    model.compile(
        optimizer=model.optimizer,
        loss=model.loss,
        metrics=["accuracy"],
        steps_per_execution=100,
        jit_compile=True,
    )
    batches = (
        tf.data.Dataset.from_tensor_slices((dataset.x_train, dataset.y_train))
        .cache()
        .shuffle(len(dataset.x_train), seed=recipe.seed)
        .batch(recipe.batch_size, drop_remainder=True)
        .repeat()
        .prefetch(tf.data.AUTOTUNE)
    )
    model.fit(batches, steps_per_epoch=recipe.steps, shuffle=False, verbose=0)


def main(_: list[str]) -> None:
    """Measures, prints a table, writes the JSON."""
    name = "mnist" if FLAGS.data_dir else "digits"
    dataset = data.load(name, data_dir=FLAGS.data_dir)
    bn = recipes.FIG1_BN.replace(dataset=name, steps=FLAGS.steps)
    keras = recipes.FIG1_KERAS.replace(dataset=name, steps=FLAGS.steps)
    seconds = measure.interleaved(
        {
            "ours": lambda: ours(bn, dataset, measured=False),
            "ours, measured": lambda: ours(bn, dataset, measured=True),
            "keras fit": lambda: keras_fit(keras, dataset, tuned=False),
            "keras fit, tuned": lambda: keras_fit(keras, dataset, tuned=True),
        },
        rounds=FLAGS.rounds,
    )
    print(f"{name}, {FLAGS.steps:,} steps of batch {bn.batch_size}")
    print(f"{'':18}{'steps/s':>10}{'ours / it':>12}")
    for contestant, value in seconds.items():
        rate, ratio = FLAGS.steps / value, value / seconds["ours"]
        print(f"{contestant:18}{rate:10,.0f}{ratio:12.2f}")
    measure.write(
        FLAGS.output,
        {"dataset": name, "steps": FLAGS.steps, "seconds": seconds},
    )


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "folder that holds mnist.npz")
    flags.DEFINE_integer("steps", 5000, "steps of each run", lower_bound=1)
    flags.DEFINE_integer("rounds", 3, "runs of each", lower_bound=1)
    flags.DEFINE_string("output", "build/bench/training.json", "file to write")
    app.run(main)
