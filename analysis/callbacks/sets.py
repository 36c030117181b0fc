# SPDX-License-Identifier: Apache-2.0
"""Ready-made sets of callbacks."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from analysis import probes, schedules, summaries
from analysis.callbacks.base import MeasureCallback
from analysis.callbacks.covariance import CovarianceCallback
from analysis.callbacks.covariate_shift import CovariateShiftCallback
from analysis.callbacks.curves import CurvesCallback
from analysis.callbacks.dashboard import DashboardCallback
from analysis.callbacks.gradients import GradientsCallback
from analysis.callbacks.jacobian import JacobianCallback
from analysis.callbacks.landscape import LandscapeCallback
from analysis.callbacks.percentiles import PercentilesCallback
from analysis.schedules import Schedule
from keras_bn.arguments import one_of
from keras_bn.recipes import Recipe

MEASURES: dict[str, type[MeasureCallback]] = {
    callback.measure: callback
    for callback in (
        PercentilesCallback,
        JacobianCallback,
        CovarianceCallback,
        GradientsCallback,
        CovariateShiftCallback,
        LandscapeCallback,
    )
}

#: Statistics need this many examples, however large each example is.
FEWEST = 64


@dataclasses.dataclass(frozen=True)
class Preset:
    """What to measure, at which steps, on how many examples.

    Attributes:
        measures: Names in `MEASURES`.
        schedule: The steps.
        examples: The most examples per measure; measures that are not listed
            take their default.
        numbers: The most input values in a measure's examples together, but
            at least `FEWEST` examples are taken: large examples, such as
            images, contribute more values each.
    """

    measures: tuple[str, ...]
    schedule: Schedule
    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    numbers: float = math.inf

    def size(self, measure: str) -> int:
        """The most examples of a measure."""
        return self.examples.get(measure, MEASURES[measure].examples)


#: From nearly free to complete. Logarithmic schedules measure often while much
#: changes, and cost an ever smaller share of a long run.
PRESETS = {
    "economy": Preset(
        ("percentiles", "gradients"),
        schedules.logarithmic(per_decade=5),
        {"percentiles": 256, "gradients": 64},
        numbers=2**18,
    ),
    "standard": Preset(
        ("percentiles", "jacobian", "covariance", "gradients"),
        schedules.logarithmic(per_decade=3),
        {
            "percentiles": 500,
            "jacobian": 2,
            "covariance": 500,
            "gradients": 64,
        },
        numbers=2**18,
    ),
    "full": Preset(
        tuple(MEASURES),
        schedules.any_of(
            schedules.logarithmic(per_decade=10), schedules.every(100)
        ),
    ),
}


def watch(
    folder: str | Path,
    *,
    probe: Any,
    preset: str = "standard",
    schedule: Schedule | None = None,
    layers: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> list[keras.callbacks.Callback]:
    """Callbacks for `fit` of any model: curves, measures, dashboard.

    If training continues, by a second `fit` or from a backup, so do the curves.
    If it begins, with a model that has made no step since it was compiled, the
    folder must be new.

    Args:
        folder: The run's folder; events go into its `train`, `validation` and
            `analysis`.
        probe: Examples that training does not change: arrays, `(inputs,
            targets)`, or a data set. Without targets there are no gradients.
        preset: `"economy"`, `"standard"` or `"full"`.
        schedule: The steps to measure at, instead of the preset's.
        layers: What to measure, see `analysis.structure.blocks`; `None` for
            each measure's default.
        hyperparameters: The values to compare runs by.
        seed: Seed of every random choice.
        overwrite: Whether to delete what an earlier run has left in the
            folder, if training begins.

    Raises:
        ValueError: If there is no such preset, or the probe has no examples;
            before the first step, if the folder holds an earlier run.
    """
    chosen = find_preset(preset)
    return _callbacks(
        Path(folder),
        measures=parts(
            probe,
            {name: chosen.size(name) for name in chosen.measures},
            numbers=chosen.numbers,
            seed=seed,
        ),
        schedule=schedule or chosen.schedule,
        layers=layers,
        hyperparameters=hyperparameters or {},
        seed=seed,
        overwrite=overwrite,
        asked=chosen.measures,
    )


def find_preset(name: str) -> Preset:
    """The preset of that name; `ValueError` if there is none."""
    return PRESETS[one_of("preset", name, tuple(PRESETS))]


def parts(
    probe: Any,
    sizes: Mapping[str, int],
    *,
    numbers: float = math.inf,
    seed: int = 0,
) -> dict[str, probes.Probe]:
    """The examples of each measure.

    Args:
        probe: See `watch`.
        sizes: The most examples, by measure.
        numbers: See `Preset`.
        seed: Seed of the choice.

    Returns:
        A probe per measure; measures that need targets are left out if there
        are none.
    """
    whole = probes.as_probe(probe, size=max(sizes.values()), seed=seed)
    each = sum(np.size(x[0]) for x in keras.tree.flatten(whole.inputs))
    most = max(FEWEST, numbers / max(1, each))
    return {
        name: whole.part(int(min(size, most)), seed=seed)
        for name, size in sizes.items()
        if whole.targets is not None or not MEASURES[name].needs_targets
    }


def for_run(
    folder: Path, recipe: Recipe, dataset: Any
) -> list[keras.callbacks.Callback]:
    """The callbacks of one run: curves, the recipe's measures, the dashboard.

    Args:
        folder: The run's folder.
        recipe: What is trained.
        dataset: The recipe's data set; measures use its test examples.

    Returns:
        Callbacks that write into `train`, `validation` and `analysis`.
    """
    inputs, labels = dataset.probe()
    # Each output has a loss.
    targets = [labels, labels] if recipe.auxiliary_head else labels
    whole = probes.Probe(inputs, targets)
    return _callbacks(
        folder,
        measures={
            name: whole.part(MEASURES[name].examples)
            for name in recipe.measures
        },
        schedule=schedules.every(recipe.measure_every),
        hyperparameters=recipe.hyperparameters(),
        seed=0,
        overwrite=True,  # Whoever opened the run's folder has checked it.
    )


def _callbacks(
    folder: Path,
    *,
    measures: Mapping[str, probes.Probe],
    schedule: Schedule,
    hyperparameters: Mapping[str, Any],
    seed: int,
    overwrite: bool,
    layers: Any = None,
    asked: Sequence[str] = (),
) -> list[keras.callbacks.Callback]:
    make = functools.partial(summaries.Writer, overwrite=overwrite)
    writer = make(folder / "analysis")
    chosen = [
        MEASURES[name](
            writer, schedule=schedule, probe=probe, layers=layers, seed=seed
        )
        for name, probe in measures.items()
    ]
    without = [
        *(name for name in asked if name not in measures),
        *(
            measure.measure
            for measure in chosen
            if measure.takes_gradients and measure.probe.targets is None
        ),
    ]
    return [
        CurvesCallback(make(folder / "train"), make(folder / "validation")),
        *chosen,
        DashboardCallback(
            writer,
            run_writer=make(folder),
            measures=chosen,
            hyperparameters=hyperparameters,
            run_name=folder.name,
            left_out=without,
        ),
    ]
