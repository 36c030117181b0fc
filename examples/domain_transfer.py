# SPDX-License-Identifier: Apache-2.0
"""Adapts a trained network to other data by replacing its statistics.

    python -m examples.domain_transfer                   bundled digits
    python -m examples.domain_transfer --data_dir=DIR    MNIST

A network is trained on clean images of digits. Its BN layers hold the
statistics of these images; those of images from another domain (inverted, of
low contrast, noisy) are different. One pass over images of the new domain,
without labels, gives their statistics (AdaBN, arXiv 1603.04779). With some
labels the network can be fine-tuned, with the statistics frozen or not.
docs/deployment.md shows the results.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import flags

import keras_bn
from analysis.figures import style
from benchmarks import measure
from examples import images
from examples.images import Images
from keras_bn import structure
from keras_bn.command_line import Command

FLAGS = flags.FLAGS

#: Images of the target domain that statistics are estimated from.
COUNTS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: Labelled images of the target domain to fine-tune on, and passes over them.
LABELLED, EPOCHS = 100, 50

Domain = Callable[[Any, np.random.Generator], Any]

DOMAINS: dict[str, Domain] = {
    "clean": lambda x, _: x,
    "inverted": lambda x, _: 1 - x,
    "low contrast": lambda x, _: 0.4 + 0.2 * x,
    "noisy": lambda x, rng: x + rng.normal(0, 0.3, x.shape),
}


def in_domain(data: Images, name: str) -> Images:
    """The data set with its images changed; always the same noise."""
    change, rng = DOMAINS[name], np.random.default_rng(0)
    return data._replace(
        x_train=change(data.x_train, rng).astype(np.float32),
        x_test=change(data.x_test, rng).astype(np.float32),
    )


def train(data: Images, epochs: int) -> keras.Model:
    """Trains on clean images and estimates their statistics."""
    model = images.network(data.x_train.shape[1:])
    fit(model, data.x_train, data.y_train, epochs=epochs, rate=1e-3)
    estimate(model, data.x_train)
    return model


def fit(
    model: keras.Model, x: Any, y: Any, *, epochs: int, rate: float
) -> None:
    """Trains with Adam on batches of 64."""
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)


def estimate(
    model: keras.Model, x: Any, layers: Sequence[str] | None = None
) -> None:
    """Statistics of images, without their labels."""
    keras_bn.estimate_population_statistics(
        model, x, pooling="exact", batch_size=256, layers=layers, verbose=0
    )


def accuracy(model: keras.Model, data: Images) -> float:
    """Accuracy on the test images of a domain."""
    logits = model.predict(data.x_test, batch_size=256, verbose=0)
    return float(np.mean(logits.argmax(-1) == data.y_test))


class Transfer:
    """Ways to move one trained network, each from the same start."""

    def __init__(self, model: keras.Model, target: Images) -> None:
        self.model = model
        self.target = target
        self.norms = structure.batch_normalizations(model)
        self._start = model.get_weights()

    def _restart(self) -> None:
        self.model.trainable = True
        self.model.set_weights(self._start)

    def source(self) -> float:
        """Accuracy with the statistics of the source."""
        self._restart()
        return accuracy(self.model, self.target)

    def estimated(
        self, count: int | None = None, layers: Sequence[str] | None = None
    ) -> float:
        """Accuracy with statistics of some target images, in some layers."""
        self._restart()
        x = self.target.x_train[: count or COUNTS[-1]]
        estimate(self.model, x, layers)
        return accuracy(self.model, self.target)

    def tuned(self, statistics: str) -> float:
        """Accuracy after fine-tuning on a few labelled images of the target.

        Args:
            statistics: `"source"`: frozen, as trained; `"target"`: estimated
                on the target, then frozen; `"free"`: BN layers continue to
                train, and statistics are estimated at the end.
        """
        self._restart()
        if statistics == "target":
            estimate(self.model, self.target.x_train[: COUNTS[-1]])
        for norm in self.norms:
            norm.trainable = statistics == "free"
        x, y = self.target.x_train[:LABELLED], self.target.y_train[:LABELLED]
        fit(self.model, x, y, epochs=EPOCHS, rate=1e-3)
        if statistics == "free":
            estimate(self.model, self.target.x_train[: COUNTS[-1]])
        return accuracy(self.model, self.target)


def transfer(model: keras.Model, target: Images) -> dict[str, float]:
    """Accuracy on the target for every way of getting there."""
    ways = Transfer(model, target)
    first, *others = [norm.name for norm in ways.norms]
    return {
        SOURCE: ways.source(),
        ESTIMATED: ways.estimated(),
        **{
            f"of the target in {name} only": ways.estimated(layers=[name])
            for name in (first, *others)
        },
        f"of the target in all but {first}": ways.estimated(layers=others),
        "tuned, frozen statistics of the source": ways.tuned("source"),
        TUNED: ways.tuned("target"),
        "tuned, BN layers train on": ways.tuned("free"),
        **{by_count(count): ways.estimated(count) for count in COUNTS},
    }


#: Ways that the picture shows.
SOURCE = "statistics of the source"
ESTIMATED = "of the target in all layers"
TUNED = "tuned, frozen statistics of the target"


def by_count(count: int) -> str:
    """Name of the way that uses `count` images of the target."""
    return f"of {count} images of the target"


def draw(runs: list[Any], path: Path) -> None:
    """Bars per domain, and accuracy over the number of images."""
    figure, axes = style.panels(1, 2, width=10, height=3.6)
    bars, curves = axes[0]
    ways = (SOURCE, ESTIMATED, TUNED)
    colors = (style.WITHOUT_BN, style.WITH_BN, style.PAPER)
    places = np.arange(len(DOMAINS))
    for i, (way, color) in enumerate(zip(ways, colors, strict=True)):
        values = [mean(runs, name, way) for name in DOMAINS]
        bars.bar(places + 0.25 * i, values, 0.22, label=way, color=color)
    bars.set_xticks(places + 0.25, list(DOMAINS))
    bars.set_ylabel("test accuracy")
    bars.set_ylim(0, 1.4)  # Room for the legend.
    bars.set_yticks(np.linspace(0, 1, 6))
    bars.legend(loc="upper left")
    for name, line in zip(DOMAINS, ("-", "--", "-.", ":"), strict=True):
        values = [mean(runs, name, by_count(count)) for count in COUNTS]
        curves.plot(COUNTS, values, line, color=style.WITH_BN, label=name)
    curves.set_xscale("log", base=2)
    curves.set_xlabel("images of the target, without labels")
    curves.set_ylim(0, 1.02)
    curves.legend(loc="center right", bbox_to_anchor=(1.0, 0.67))
    path.parent.mkdir(parents=True, exist_ok=True)
    style.save(figure, path)


def mean(runs: list[Any], domain: str, way: str) -> float:
    """A figure's mean over the seeds."""
    return float(np.mean([run[domain][way] for run in runs]))


def table(runs: list[Any]) -> str:
    """The means over the seeds, as Markdown."""
    rows = [["test accuracy", *DOMAINS], ["---"] * (len(DOMAINS) + 1)]
    for way in runs[0]["clean"]:
        rows.append(
            [way, *(f"{mean(runs, name, way):.3f}" for name in DOMAINS)]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Trains and moves a network per seed; prints, draws, writes."""
    data = images.load(FLAGS.data_dir)
    data = data._replace(
        x_train=data.x_train[: FLAGS.examples],
        y_train=data.y_train[: FLAGS.examples],
    )
    runs = []
    for seed in range(FLAGS.seeds):
        keras.utils.set_random_seed(seed)
        model = train(data, FLAGS.epochs)
        runs.append(
            {name: transfer(model, in_domain(data, name)) for name in DOMAINS}
        )
        measure.write(FLAGS.output, runs)
    print(table(runs))
    draw(runs, Path(FLAGS.figure))


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "folder that holds mnist.npz")
    flags.DEFINE_integer(
        "examples", 10_000, "images to train on", lower_bound=COUNTS[-1]
    )
    flags.DEFINE_integer("epochs", 3, "passes over them", lower_bound=1)
    flags.DEFINE_integer("seeds", 3, "networks to train", lower_bound=1)
    flags.DEFINE_string("output", "build/transfer.json", "file to write")
    flags.DEFINE_string("figure", "build/transfer.png", "picture to draw")
    Command("domain_transfer", main).run()
