# SPDX-License-Identifier: Apache-2.0
"""Folds a saved model.

python -m keras_bn.folding in.keras out.keras

Says which BN layers stay, and why. The exit code is 2 for wrong arguments, 1
if the model cannot be read, folded or written.
"""

import sys
from pathlib import Path

import keras

from keras_bn import folding

USAGE = "usage: python -m keras_bn.folding in.keras out.keras"


def main(arguments: list[str]) -> int:
    """Reads, folds, writes, says what stays; returns the exit code."""
    if arguments in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if len(arguments) != 2 or not all(x.endswith(".keras") for x in arguments):
        given = " ".join(arguments) or "nothing"
        print(f"folding: {USAGE}. Received: {given}", file=sys.stderr)
        return 2
    source, target = map(Path, arguments)
    try:
        decisions = fold_file(source, target)
    except Exception as error:  # Keras raises anything on a broken file.
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"folding: {source}: {reason}", file=sys.stderr)
        return 1
    stay = [decision for decision in decisions if not decision.into]
    for decision in stay:
        print(decision)
    print(
        f"{len(decisions) - len(stay)} of {len(decisions)} BN layers folded. "
        f"Written: {target}"
    )
    return 0


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
