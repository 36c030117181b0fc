# SPDX-License-Identifier: Apache-2.0
"""From training to deployment: train, estimate, fold, export, compare.

    python -m examples.deployment                    bundled digits, a minute
    python -m examples.deployment --data_dir=DIR     MNIST; DIR holds mnist.npz

docs/deployment.md explains each step and shows the output.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import keras_bn
from benchmarks import measure
from examples import images
from examples.images import Images
from keras_bn import folding, structure
from keras_bn.command_line import Command

FLAGS = flags.FLAGS


def train(data: Images, steps: int) -> keras.Model:
    """Trains for `steps` batches of 64."""
    model = images.network(data.x_train.shape[1:])
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    batches = (
        tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
        .shuffle(len(data.x_train), seed=0)
        .repeat()
        .batch(64)
    )
    model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    return model


def accuracy(model: keras.Model, data: Images) -> float:
    """Accuracy on the test images."""
    logits = model.predict(data.x_test, verbose=0)
    return float(np.mean(logits.argmax(-1) == data.y_test))


def export(model: keras.Model, path: Path) -> Any:
    """Writes a LiteRT file; returns its interpreter."""
    model.export(path, format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Any, image: Any) -> Any:
    """Logits of one image `[1, H, W, 1]`."""
    (inputs,) = interpreter.get_input_details()
    (outputs,) = interpreter.get_output_details()
    interpreter.set_tensor(inputs["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(outputs["index"])


def compare(
    model: keras.Model, folded: keras.Model, data: Images, folder: Path
) -> dict[str, Any]:
    """Size, speed and predictions of both, in Keras and in LiteRT."""
    models = {"as trained": model, "folded": folded}
    lite, figures = {}, {}
    batch, image = data.x_test[:64], data.x_test[:1]
    expected = model.predict(batch, verbose=0)
    for name, each in models.items():
        lite[name] = export(each, folder / f"{name}.tflite")
        logits = {
            "keras": each.predict(batch, verbose=0),
            "litert": np.concatenate(
                [run(lite[name], x[np.newaxis]) for x in batch]
            ),
        }
        figures[name] = {
            "bn_layers": len(structure.batch_normalizations(each)),
            "parameters": each.count_params(),
            "litert_bytes": (folder / f"{name}.tflite").stat().st_size,
            "litert_operations": len(lite[name]._get_ops_details()),
            "accuracy": round(accuracy(each, data), 4),
            **{
                f"difference_{kind}": round(
                    float(np.abs(x - expected).max()), 9
                )
                for kind, x in logits.items()
            },
        }
    return {"models": figures, "seconds": speed(models, lite, batch, image)}


def speed(
    models: dict[str, keras.Model], lite: dict[str, Any], batch: Any, image: Any
) -> dict[str, dict[str, float]]:
    """Median seconds, the two networks taking turns."""
    in_keras = {
        name: functools.partial(_predict, tf.function(each), tf.constant(batch))
        for name, each in models.items()
    }
    in_litert = {
        name: functools.partial(run, each, image) for name, each in lite.items()
    }
    return {
        "keras, 64 images": measure.interleaved(in_keras, rounds=FLAGS.rounds),
        "litert, 1 image": measure.interleaved(
            in_litert, rounds=20 * FLAGS.rounds
        ),
    }


def _predict(model: Any, batch: Any) -> Any:
    return model(batch, training=False).numpy()


def main() -> None:
    """Goes all the way and prints what it finds."""
    keras.utils.set_random_seed(FLAGS.seed)
    data = images.load(FLAGS.data_dir)
    model = train(data, FLAGS.steps)
    results: dict[str, Any] = {
        "steps": FLAGS.steps,
        "accuracy_with_moving_averages": accuracy(model, data),
    }
    keras_bn.estimate_population_statistics(
        model, data.x_train, batch_size=64, pooling="exact", verbose=0
    )
    results["accuracy_with_population_statistics"] = accuracy(model, data)
    for decision in folding.plan(model).decisions:
        print(decision)
    folded = keras_bn.fold(model)
    with tempfile.TemporaryDirectory() as folder:
        results |= compare(model, folded, data, Path(folder))
    measure.write(FLAGS.output, results)
    report(results)


def report(results: dict[str, Any]) -> None:
    """Prints the figures."""
    for name in ("moving_averages", "population_statistics"):
        figure = results[f"accuracy_with_{name}"]
        print(f"accuracy with {name.replace('_', ' ')}: {figure:.4f}")
    before, after = results["models"].values()
    rows = {name: (before[name], after[name]) for name in before}
    for name, seconds in results["seconds"].items():
        first, second = seconds.values()
        rows[f"seconds, {name}"] = f"{first:.3g}", f"{second:.3g}"
    print(f"{'':26}{'as trained':>14}{'folded':>14}")
    for name, (first, second) in rows.items():
        print(f"{name:26}{first!s:>14}{second!s:>14}")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "folder that holds mnist.npz")
    flags.DEFINE_integer("steps", 200, "steps of training", lower_bound=1)
    flags.DEFINE_integer("rounds", 20, "timed runs", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "seed of weights and order of images")
    flags.DEFINE_string("output", "build/deployment.json", "file to write")
    Command("deployment", main).run()
