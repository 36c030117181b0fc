# SPDX-License-Identifier: Apache-2.0
"""Applies the measures of the callbacks once, to a saved model.

    python -m analysis.inspect model.keras --data=examples.npz
    python -m analysis.inspect model.keras --data=images.zip --layers='conv.*'

The data are an `.npz` file or images. The file holds arrays as the model takes
them: `x` or `x_test` and, if there are labels, `y` or `y_test`; for a model
with several inputs, one array under each input's name. Images are a folder or
a zip archive of them, or a folder of TFRecord shards (docs/data.md), and are
scaled as `train.py` does.

Prints a table per measure, and writes the numbers to `inspection.json`, with
spectra and environment, and as pictures.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import flags

from analysis import inspection, probes
from analysis.callbacks.sets import PRESETS
from analysis.figures import inspection as pictures, style
from analysis.readings import Readings
from keras_bn import data as datasets, saved_models
from keras_bn.command_line import Command
from keras_bn.data import files
from keras_bn.data.images import PROBE
from keras_bn.environment import devices, environment
from keras_bn.writing import write_json

FLAGS = flags.FLAGS
_OPTIONS = (
    "data",
    "output",
    "preset",
    "measures",
    "layers",
    "examples",
    "seed",
)


def main(model_file: str) -> None:
    """Inspects what the flags ask for."""
    inspect_file(
        model_file,
        **{name: FLAGS[name].value for name in _OPTIONS},
    )


def inspect_file(
    model_file: str | Path,
    *,
    data: str | None,
    output: str | None = None,
    layers: Sequence[str] = (),
    seed: int = 0,
    **options: Any,
) -> None:
    """Inspects a model, prints tables, writes JSON and pictures.

    Args:
        model_file: The `.keras` file.
        data: See the module.
        output: Folder to write; `None` for one beside the model.
        layers: Names or regular expressions; empty for the default.
        seed: Seed of every random choice.
        **options: See `analysis.inspect_model`.

    Raises:
        ValueError: If `inspect_model` does.
        ExpectedError: If a file cannot be read.
    """
    path = Path(model_file)
    model = saved_models.load(path, compiled=True)
    readings = inspection.inspect_model(
        model,
        probe=load_probe(data, model, examples=options.get("examples")),
        layers=_selectors(layers),
        seed=seed,
        **options,
    )
    print("\n".join(inspection.tables(readings.numbers)))
    for tag, reason in readings.remarks.items():
        print(f"{tag.replace('/', ' ')}: {reason}")
    folder = Path(output or f"{path.with_suffix('')}-inspection")
    write(folder, readings, model=path.name, data=data, seed=seed)
    print(f"Written: {folder}")


def load_probe(
    source: str | None, model: keras.Model, *, examples: int | None = None
) -> probes.Probe:
    """The examples of `--data`.

    Args:
        source: File or folder.
        model: The model that takes them.
        examples: The most images to decode; `None` for a number that suits
            image networks.

    Raises:
        ValueError: If no source is named.
        DataError: If the images cannot be listed.
        keras_bn.failures.InputError: If they cannot be read.
    """
    if not source:
        raise ValueError("data must name examples. Received: no --data")
    path = Path(source)
    if path.suffix == ".npz":
        return _probe_of_arrays(path, model)
    of_shards = path.is_dir() and any(path.glob("*-?????-of-?????"))
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or not shape[1]:
        raise ValueError(
            "images are for models of images of one size. Received: input "
            f"shape {shape}"
        )
    images = datasets.load(
        "tfrecords" if of_shards else "image_folder",
        data_dir=path,
        image_size=shape[1],
    )
    return probes.Probe(*images.probe(examples or PROBE))


def write(folder: Path, readings: Readings, **about: Any) -> None:
    """Writes `inspection.json` and a picture per measure."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "inspection.json",
        {
            **about,
            "environment": environment(device=devices()),
            "numbers": dict(readings.numbers),
            "distributions": {
                tag: values.tolist()
                for tag, values in readings.distributions.items()
            },
            "remarks": readings.remarks,
        },
    )
    drawn = pictures.figures(readings.numbers, readings.distributions)
    for name, figure in drawn.items():
        style.save(figure, folder / f"{name}.png")


def _probe_of_arrays(path: Path, model: keras.Model) -> probes.Probe:
    """The probe of an `.npz` file."""
    arrays = files.arrays(path)
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    inputs = (
        {name: arrays[name] for name in names}
        if len(names) > 1 and arrays.keys() >= set(names)
        else arrays.get("x", arrays.get("x_test"))
    )
    if inputs is None:
        raise datasets.DataError(
            f"{path} must hold x, x_test or the model's inputs. Received: "
            f"{', '.join(arrays) or 'nothing'}"
        )
    return probes.Probe(inputs, arrays.get("y", arrays.get("y_test")))


def _selectors(layers: Sequence[str]) -> list[re.Pattern[str]] | None:
    """Names and regular expressions, all compiled: a name matches itself."""
    try:
        return [re.compile(name) for name in layers] or None
    except re.error as error:
        raise ValueError(
            "layers must be names or regular expressions. Received: "
            f"{error.pattern!r} ({error})"
        ) from error


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "file or folder of examples; see above")
    flags.DEFINE_enum("preset", "standard", [*PRESETS], "what to measure")
    flags.DEFINE_list(
        "measures",
        [],
        f"any of {', '.join(inspection.MEASURES)} [the preset's]",
    )
    flags.DEFINE_list(
        "layers", [], "names or regular expressions [each measure's default]"
    )
    flags.DEFINE_integer(
        "examples", None, "most per measure [the preset's]", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "seed of random choices", lower_bound=0)
    flags.DEFINE_string("output", None, "folder to write [<model>-inspection]")
    Command("inspect", main, ("MODEL.keras",)).run()
