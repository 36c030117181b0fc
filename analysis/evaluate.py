# SPDX-License-Identifier: Apache-2.0
"""Accuracy of trained runs, single and as an ensemble, as in Fig. 4.

    python -m analysis.evaluate --runs=runs/a,runs/b --data_dir=DIR --crops=144

Each run is restored from its newest checkpoint and classifies the test images
of its data set. With 10 or 144 crops, the class probabilities of all views of
an image are averaged; an ensemble averages those of its members (section 4.2.3
of the paper). What is written as `<logdir>/evaluation.json`, or
`evaluation-<anything>.json`, is on the page of `analysis.report`.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import flags
from numpy.typing import NDArray

from analysis import files
from analysis.figures import figure4
from analysis.text import text_table
from keras_bn import data, failures, training
from keras_bn.command_line import Command
from keras_bn.counting import Counter
from keras_bn.data.views import CROPS, require_crops
from keras_bn.environment import devices, environment
from keras_bn.recipes import Recipe
from keras_bn.run_folder import RunFolder
from keras_bn.writing import write_json

FLAGS = flags.FLAGS
_LOG = logging.getLogger(__name__)


def probabilities(
    model: keras.Model, batches: Any, *, counter: Counter
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Class probabilities of every image, means over its views.

    Args:
        model: A model whose only or first output is logits.
        batches: Yields inputs `[N, ...]`, or `[N, crops, ...]`, and labels.
        counter: Told how many images are done.

    Returns:
        `[N, classes]` and labels `[N]`.

    Raises:
        keras_bn.failures.InputError: If a batch cannot be read.
    """
    rank = len(model.inputs[0].shape)
    found, labels, count = [], [], 0
    for inputs, targets in failures.readable(batches.as_numpy_iterator):
        views = inputs[:, None] if inputs.ndim == rank else inputs
        flat = views.reshape(-1, *views.shape[2:])
        logits = [
            _logits(model, flat[first : first + 256])
            for first in range(0, len(flat), 256)
        ]
        p = np.asarray(keras.ops.softmax(np.concatenate(logits)), np.float64)
        found.append(p.reshape(*views.shape[:2], -1).mean(1))
        labels.append(targets)
        count += len(targets)
        counter.show(count)
    return np.concatenate(found), np.concatenate(labels)


def top(
    probabilities: NDArray[np.float64], labels: NDArray[np.int32], k: int
) -> float:
    """Share of images whose label is among the `k` most probable classes.

    Equally probable classes rank in their order; a label whose probability is
    NaN counts as missed.
    """
    label = labels[:, None]
    its = np.take_along_axis(probabilities, label, axis=1)
    earlier = np.arange(probabilities.shape[1]) < label
    before = (probabilities > its) | ((probabilities == its) & earlier)
    return float(np.mean((before.sum(1) < k) & ~np.isnan(its[:, 0])))


def evaluate(
    runs: Sequence[str | Path],
    *,
    data_dir: str | Path | None = None,
    crops: int = 1,
) -> list[dict[str, Any]]:
    """A row per run, and one for all together if there are several.

    Args:
        runs: Folders of runs on one data set.
        data_dir: As for `train.py`.
        crops: Views of each image, one of `views.CROPS`.

    Returns:
        `name` (the run's folder), `model` (of its recipe), `step`, `crops`,
        `top_1`, `top_5`: shares of test images.

    Raises:
        ValueError: If the runs are of different data, or there are none.
    """
    folders = [RunFolder(Path(run)) for run in runs if run]
    recipes = [folder.read_recipe() for folder in folders]
    dataset = _dataset(recipes, data_dir, crops)
    rows: list[dict[str, Any]] = []
    total: Any = 0.0  # Only the sum is kept, as each is [N, classes].
    for folder, recipe in zip(folders, recipes, strict=True):
        if folder.read_data() not in ({}, dataset.identity()):
            _LOG.warning("%s was trained on other data", folder.path)
        model, step = training.restore(folder, dataset)
        options = {"crops": crops} if crops > 1 else {}
        batches = dataset.test(batch_size=max(1, 512 // crops), **options)
        name = folder.path.name
        with Counter(
            name, dataset.test_examples, unit="images", patience=0
        ) as counter:
            p, labels = probabilities(model, batches, counter=counter)
        total += p
        about = {"name": name, "model": recipe.model, "step": step}
        rows.append({**about, "crops": crops, **_tops(p, labels)})
    if len(folders) > 1:
        models = {recipe.model for recipe in recipes}
        about = {
            "name": f"ensemble of {len(folders)}",
            "model": " and ".join(sorted(models)),
            "step": None,
        }
        mean = total / len(folders)
        rows.append({**about, "crops": crops, **_tops(mean, labels)})
    return rows


def _logits(model: keras.Model, x: NDArray[np.float32]) -> Any:
    outputs = model.predict_on_batch(x)
    return outputs[0] if isinstance(outputs, list) else outputs


def _tops(
    p: NDArray[np.float64], labels: NDArray[np.int32]
) -> dict[str, float]:
    return {"top_1": top(p, labels, 1), "top_5": top(p, labels, 5)}


def _dataset(
    recipes: Sequence[Recipe], data_dir: str | Path | None, crops: int
) -> Any:
    require_crops(crops)
    if not recipes:
        raise ValueError("runs must name folders of runs. Received: none")
    sources = {(recipe.dataset, recipe.image_size) for recipe in recipes}
    if len(sources) != 1:
        raise ValueError(
            "runs must be of one data set and image size. Received: "
            + ", ".join(f"{n} at {s}" for n, s in sorted(sources))
        )
    ((name, size),) = sources
    dataset = data.load(name, data_dir=data_dir, image_size=size)
    if crops > 1 and len(dataset.input_shape) != 3:
        raise ValueError(
            f"crops are taken of colour images. Received: dataset={name}"
        )
    return dataset


def main() -> None:
    """Evaluates, prints the table, writes the file."""
    output = Path(FLAGS.output) if FLAGS.output else None
    if output:
        files.check_writable(output)
    rows = evaluate(FLAGS.runs, data_dir=FLAGS.data_dir, crops=int(FLAGS.crops))
    print("\n".join(text_table(figure4.cells(rows))), flush=True)
    if output:
        about = environment(device=devices())
        write_json(output, {"environment": about, "results": rows})


if __name__ == "__main__":
    flags.DEFINE_list("runs", [], "folders of runs, comma separated")
    flags.DEFINE_string(
        "data_dir", None, "folder of the data set's files, or the file"
    )
    flags.DEFINE_enum("crops", "1", [*map(str, CROPS)], "views of an image")
    flags.DEFINE_string("output", None, "JSON file to write")
    Command("evaluate", main).run()
