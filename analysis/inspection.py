# SPDX-License-Identifier: Apache-2.0
"""Applies the callbacks' measures once, to a model that is not in training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from analysis import probes, schedules, tags
from analysis.callbacks import sets
from analysis.readings import Readings
from analysis.text import text_table
from keras_bn.arguments import optional_size

#: Without the measures that compare before and after a training step.
MEASURES = tuple(
    name for name, measure in sets.MEASURES.items() if not measure.needs_a_step
)


def inspect_model(
    model: keras.Model,
    *,
    probe: Any,
    preset: str = "standard",
    measures: Sequence[str] = (),
    layers: Any = None,
    examples: int | None = None,
    seed: int = 0,
) -> Readings:
    """What the callbacks of `analysis.watch` would write for a model now.

    Without targets, or if the model is not compiled, readings that need the
    loss are left out, with a remark.

    Args:
        model: A built model.
        probe: See `watch`.
        preset: See `watch`; its schedule is ignored.
        measures: Names in `MEASURES`, instead of the preset's.
        layers: See `watch`.
        examples: The most examples of every measure, instead of the preset's.
        seed: Seed of every random choice.

    Returns:
        Readings by their tags in TensorBoard; under `missing/...` what could
        not be measured, and why.

    Raises:
        ValueError: If a measure, the preset or layers do not exist, or if the
            probe has no examples or the model does not accept it.
    """
    chosen = sets.find_preset(preset)
    optional_size("examples", examples)
    sizes = {
        name: examples or chosen.size(name)
        for name in _known(measures) or chosen.measures
        if name in MEASURES
    }
    readings = Readings()
    whole = probes.as_probe(probe, size=max(sizes.values()), seed=seed)
    if whole.targets is None or not model.compiled:
        lacking = "the model is not compiled"
        if whole.targets is None:
            lacking = "the probe has no targets"
        for name in sizes:
            if sets.MEASURES[name].takes_gradients:
                readings.text(
                    tags.tag("missing", name, "network"),
                    f"{lacking}, so there is no loss to take gradients of",
                )
        whole = probes.Probe(whole.inputs)
    most = math.inf if examples else chosen.numbers
    parts = sets.parts(whole, sizes, numbers=most, seed=seed)
    for name, part in parts.items():
        callback = sets.MEASURES[name](
            readings,
            schedule=schedules.every(1),
            probe=part,
            layers=layers,
            seed=seed,
        )
        callback.set_model(model)
        callback.start()
    for tag in [
        t for t in readings.numbers if tags.parts(t).statistic == "growth"
    ]:
        del readings.numbers[tag]  # since the start of training: not known
    return readings


def tables(numbers: Mapping[str, float]) -> list[str]:
    """Numbers by their tags, as a table per measure.

    Returns:
        Lines: rows are layers, columns are statistics.
    """
    lines = []
    for measure, rows in _by_measure(numbers).items():
        columns = list(
            dict.fromkeys(name for row in rows.values() for name in row)
        )
        cells = [
            [layer, *(f"{row[c]:.4g}" if c in row else "-" for c in columns)]
            for layer, row in rows.items()
        ]
        lines += [*text_table([[measure, *columns], *cells]), ""]
    return lines[:-1]


def _by_measure(
    numbers: Mapping[str, float],
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure -> layer -> statistic -> number.

    Mode or unit, on which a statistic may depend, is part of the measure.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for tag, value in numbers.items():
        of = tags.parts(tag)
        under = [of.measure, *filter(None, of.condition.split("/"))]
        rows = found.setdefault(", ".join(under), {})
        rows.setdefault(of.layer, {})[of.statistic] = value
    return found


def _known(measures: Sequence[str]) -> Sequence[str]:
    for name in measures:
        if name not in MEASURES:
            raise ValueError(
                f"measures must be among {', '.join(MEASURES)}. "
                f"Received: {name}"
            )
    return measures
