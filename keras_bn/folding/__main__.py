# SPDX-License-Identifier: Apache-2.0
"""Folds a saved model.

python -m keras_bn.folding in.keras out.keras

Prints which BN layers stay, and why. An output file that exists is not
overwritten. The exit code is 2 for wrong arguments, 1 if the model cannot be
read, folded or written.
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_bn import folding, saved_models
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
    model = saved_models.load(source)
    with saved_models.blaming(source, "cannot be folded"):
        folded = folding.fold(model)
    with (
        saved_models.blaming(target, "cannot be written"),
        replacing(target) as temporary,
    ):
        folded.save(temporary)
    return folding.plan(model).decisions


COMMAND = Command("folding", main, ("in.keras", "out.keras"))

if __name__ == "__main__":
    COMMAND.run()
