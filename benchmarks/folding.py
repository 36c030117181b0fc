# SPDX-License-Identifier: Apache-2.0
"""Conversion and folding of every network of keras.applications that has BN.

    python -m benchmarks.folding

If it is stopped midway, the same command continues with the missing networks.

Each network gets random weights, the smallest image size that it allows, and
random gamma, beta and statistics. Per network, in a process of its own:

- `converted`: `keras_bn.convert` against the original: the largest difference
  of a prediction (softmax);
- `folded`: `keras_bn.fold` against the original: the largest difference of a
  logit, relative to the largest logit;
- `rounding`: the same between the original and itself in float64;
- `folded, float64`: the same as `folded`, all in float64;
- `time ratio`: seconds of folded / original, compiled, interleaved medians.
"""

import collections
import contextlib
import functools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from scipy.special import softmax

import keras_bn
from benchmarks import measure, tables
from keras_bn import folding, structure
from keras_bn.dtypes import default_policy

FLAGS = flags.FLAGS

#: Families of keras.applications that have no BN.
WITHOUT_BN = ("ConvNeXt", "VGG")
#: Smallest image sizes that keras.applications asks for.
IMAGE_SIZES = (32, 71, 75)
CLASSES = 10


def architectures() -> list[str]:
    """Names of all networks that have BN, in alphabetical order."""
    return [
        name
        for name in dir(keras.applications)
        if name[0].isupper() and not name.startswith(WITHOUT_BN)
    ]


def build(name: str) -> keras.Model:
    """The network, for the smallest images it takes, returning logits."""
    for size in IMAGE_SIZES:
        with contextlib.suppress(ValueError):
            return getattr(keras.applications, name)(
                input_shape=(size, size, 3),
                weights=None,
                classes=CLASSES,
                classifier_activation=None,
            )
    raise ValueError(f"no image size fits. Received: {name}")


def randomize(model: keras.Model, rng: np.random.Generator) -> None:
    """Gives every BN layer random weights and statistics.

    The statistics are those of random images, with each mean off by some 0.3
    standard deviations and each variance up to twice as large. With the exact
    statistics, each layer of a random network amplifies small differences a
    little, and 160 layers amplify float32's rounding to the size of the output.
    """
    norms = structure.batch_normalizations(model)
    for norm in norms:
        if norm.gamma is not None:
            norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
        if norm.beta is not None:
            norm.beta.assign(rng.normal(0.0, 0.3, norm.beta.shape))
    keras_bn.estimate_population_statistics(
        model, images(model, 32, rng), pooling="exact", verbose=0
    )
    for norm in norms:
        shape = norm.moving_mean.shape
        deviation = np.sqrt(norm.moving_variance)
        norm.moving_mean.assign_add(rng.normal(0.0, 0.3, shape) * deviation)
        norm.moving_variance.assign(
            norm.moving_variance * rng.uniform(1.0, 2.0, shape)
        )


def images(model: keras.Model, count: int, rng: np.random.Generator) -> Any:
    """Random images, pixels in [0, 255]."""
    shape = (count, *model.input_shape[1:])
    return rng.uniform(0.0, 255.0, shape).astype(np.float32)


def measure_one(
    name: str, *, rounds: int, batch_size: int, seed: int
) -> dict[str, Any]:
    """All figures of one network."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = build(name)
    randomize(model, rng)
    x = images(model, batch_size, rng)
    folded = keras_bn.fold(model)
    seconds = measure.interleaved(
        {"original": runner(model, x), "folded": runner(folded, x)},
        rounds=rounds,
    )
    return {
        "image_size": model.input_shape[1],
        "bn_layers": len(structure.batch_normalizations(model)),
        "bn_layers_folded": len(structure.batch_normalizations(folded)),
        "kept": kept(model),
        "seconds": seconds,
        "time_ratio": seconds["folded"] / seconds["original"],
        "float32": comparisons(model, folded, x),
        **in_float64(name, model, x),
    }


def in_float64(name: str, model: keras.Model, x: Any) -> dict[str, Any]:
    """The rounding error of float32, and the comparisons in float64."""
    with default_policy("float64"):
        twin = build(name)
        twin.set_weights(model.get_weights())
        return {
            "rounding": compare(model, twin, x),
            "float64": comparisons(twin, keras_bn.fold(twin), x),
        }


def comparisons(
    model: keras.Model, folded: keras.Model, x: Any
) -> dict[str, Any]:
    """The converted and the folded network, each against the original."""
    return {
        "converted": compare(keras_bn.convert(model), model, x),
        "folded": compare(folded, model, x),
    }


def compare(model: keras.Model, original: keras.Model, x: Any) -> Any:
    """Largest difference of predictions, and of logits in relative terms."""
    # Not `predict`, which takes longer to compile than a few images to run.
    actual, expected = (
        np.asarray(m(x, training=False)) for m in (model, original)
    )
    predictions = softmax(actual, axis=-1) - softmax(expected, axis=-1)
    logits = np.abs(actual - expected).max() / np.abs(expected).max()
    return {
        "predictions": float(np.abs(predictions).max()),
        "logits": float(logits),
    }


def runner(model: keras.Model, x: Any) -> Any:
    """A function that runs the compiled network once."""
    run = tf.function(lambda: model(tf.constant(x), training=False))
    return lambda: run().numpy()


def kept(model: keras.Model) -> dict[str, int]:
    """How many BN layers remain, by the layers before and after them."""
    reasons = collections.Counter(
        "; ".join(
            part.partition(" (")[2].replace(")", "", 1)
            for part in decision.reason.split("; ")
        )
        for decision in folding.plan(model).decisions
        if not decision.into
    )
    return dict(reasons.most_common())


def markdown(results: dict[str, Any]) -> str:
    """The table of the docs."""
    head = [
        *("network", "image", "BN", "left", "time ratio"),
        *("converted", "folded", "rounding", "folded, float64"),
    ]
    rows = [head]
    for name, one in results.items():
        differences = [
            one["float32"]["converted"]["predictions"],
            one["float32"]["folded"]["logits"],
            one["rounding"]["logits"],
            one["float64"]["folded"]["logits"],
        ]
        rows.append(
            [
                name,
                *(str(one["image_size"]), str(one["bn_layers"])),
                *(str(one["bn_layers_folded"]), f"{one['time_ratio']:.2f}"),
                *(f"{difference:.0e}" for difference in differences),
            ]
        )
    return tables.markdown(rows)


def measured_before(settings: dict[str, Any]) -> dict[str, Any]:
    """Results in the output file of an interrupted run like this one."""
    try:
        contents = json.loads(Path(FLAGS.output).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    results: dict[str, Any] = contents["results"]
    alike = (
        contents["environment"] == measure.environment()
        and results["settings"] == settings
    )
    return results["networks"] if alike else {}


def main(_: list[str]) -> None:
    """Measures, prints the table, writes the JSON."""
    flags_that_matter = ("rounds", "batch_size", "seed")
    settings = {name: FLAGS[name].value for name in flags_that_matter}
    networks = measured_before(settings)
    for name in FLAGS.architectures or architectures():
        if name not in networks:
            networks[name] = measure.in_a_process(
                functools.partial(measure_one, name, **settings)
            )
            results = {"settings": settings, "networks": networks}
            measure.write(FLAGS.output, results)
        print(markdown({name: networks[name]}).splitlines()[-1], flush=True)
    print(markdown(networks))


if __name__ == "__main__":
    flags.DEFINE_list("architectures", None, "names of networks; default: all")
    flags.DEFINE_integer("rounds", 15, "runs of each", lower_bound=1)
    flags.DEFINE_integer("batch_size", 8, "images per run", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "seed of weights, statistics and images")
    flags.DEFINE_string("output", "build/bench/folding.json", "file to write")
    app.run(main)
