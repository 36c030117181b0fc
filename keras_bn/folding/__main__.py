# SPDX-License-Identifier: Apache-2.0
"""Folds a saved model.

python -m keras_bn.folding in.keras out.keras

Says which BN layers stay, and why. The exit code is 2 for wrong arguments, 1
if the model cannot be read, folded or written.
"""

from pathlib import Path

import keras

from keras_bn import folding
from keras_bn.command_line import Command
from keras_bn.errors import ExpectedError


def main(source: str, target: str) -> None:
    """Reads, folds, writes, says what stays."""
    if not (source.endswith(".keras") and target.endswith(".keras")):
        raise ValueError(
            f"both files must end in .keras. Received: {source} {target}"
        )
    try:
        decisions = fold_file(Path(source), Path(target))
    except Exception as error:  # Keras raises anything on a broken file.
        reason = str(error) or type(error).__name__
        raise ExpectedError(f"{source}: {reason}") from error
    stay = [decision for decision in decisions if not decision.into]
    for decision in stay:
        print(decision)
    print(
        f"{len(decisions) - len(stay)} of {len(decisions)} BN layers folded. "
        f"Written: {target}"
    )


def fold_file(source: Path, target: Path) -> list[folding.Decision]:
    """Folds the model of a `.keras` file into another such file."""
    model = keras.models.load_model(source, compile=False)
    temporary = target.with_name(f".{target.stem}.tmp.keras")
    try:
        folding.fold(model).save(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return folding.plan(model).decisions


COMMAND = Command("folding", main, ("in.keras", "out.keras"))

if __name__ == "__main__":
    COMMAND.run()
