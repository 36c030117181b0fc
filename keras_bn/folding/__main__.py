# SPDX-License-Identifier: Apache-2.0
"""Folds a saved model.

python -m keras_bn.folding in.keras out.keras

Says which BN layers stay, and why. Nothing that is there is replaced. The exit
code is 2 for wrong arguments, 1 if the model cannot be read, folded or written.
"""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_bn import folding
from keras_bn.command_line import Command
from keras_bn.errors import ExpectedError
from keras_bn.writing import replacing


def main(source: str, target: str) -> None:
    """Reads, folds, writes, says what stays."""
    if not (source.endswith(".keras") and target.endswith(".keras")):
        raise ValueError(
            f"both files must end in .keras. Received: {source} {target}"
        )
    if os.path.lexists(target):
        raise ExpectedError(f"{target} is there already. Name another file")
    decisions = fold_file(Path(source), Path(target))
    stay = [decision for decision in decisions if not decision.into]
    for decision in stay:
        print(decision)
    print(
        f"{len(decisions) - len(stay)} of {len(decisions)} BN layers folded. "
        f"Written: {target}"
    )


def fold_file(source: Path, target: Path) -> list[folding.Decision]:
    """Folds the model of a `.keras` file into another such file.

    Raises:
        ExpectedError: If the model cannot be read, folded or written.
    """
    model = load_model(source)
    with _blaming(source, "cannot be folded"):
        folded = folding.fold(model)
    with _blaming(target, "cannot be written"), replacing(target) as temporary:
        folded.save(temporary)
    return folding.plan(model).decisions


def load_model(path: Path) -> keras.Model:
    """The model of a `.keras` file.

    Raises:
        ExpectedError: If the file is missing, damaged or holds no model.
    """
    with _blaming(path, "cannot be read"):
        if path.exists() and not path.is_file():
            raise ExpectedError("it is no file")
        # Keras says "not found" of whatever is no archive.
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ExpectedError("it is no .keras archive, or damaged")
        return keras.models.load_model(path, compile=False)


@contextlib.contextmanager
def _blaming(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExpectedError(f"{path} {what}: {reason}") from error
    except Exception as error:  # Keras raises anything on a broken file.
        reason = str(error)[:300] or type(error).__name__
        raise ExpectedError(f"{path} {what}: {reason}") from error


COMMAND = Command("folding", main, ("in.keras", "out.keras"))

if __name__ == "__main__":
    COMMAND.run()
