# SPDX-License-Identifier: Apache-2.0
"""Folds a saved model.

python -m keras_bn.folding in.keras out.keras
"""

import sys
from pathlib import Path

import keras

from keras_bn import folding


def main(arguments: list[str]) -> int:
    """Reads, folds, writes, says what stays; returns the exit code."""
    if len(arguments) != 2 or not arguments[1].endswith(".keras"):
        given = " ".join(arguments) or "nothing"
        print(
            "folding: usage: python -m keras_bn.folding in.keras out.keras. "
            f"Received: {given}",
            file=sys.stderr,
        )
        return 2
    source, target = map(Path, arguments)
    try:
        model = keras.models.load_model(source, compile=False)
        folded = folding.fold(model)
        temporary = target.with_name(f".{target.name}.tmp.keras")
        folded.save(temporary)
        temporary.replace(target)
    except (OSError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        print(f"folding: {source}: {reason}", file=sys.stderr)
        return 1
    decisions = folding.plan(model).decisions
    stay = [decision for decision in decisions if not decision.into]
    for decision in stay:
        print(decision)
    print(
        f"{len(decisions) - len(stay)} of {len(decisions)} BN layers folded. "
        f"Written: {target}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
