# SPDX-License-Identifier: Apache-2.0
"""Measures the claims and says which hold.

    python -m analysis.claims                       all, in under two minutes
    python -m analysis.claims --only=4,5,6
    python -m analysis.claims --full --data_dir=DIR     on MNIST, several seeds

Exit code 1 if a claim, as worded, does not hold.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

FLAGS = flags.FLAGS


def run(only: list[int]) -> list[dict[str, Any]]:
    """A row per claim; prints each as it comes."""
    from analysis.claims import CLAIMS, LONG
    from analysis.claims.result import Settings, path

    # Small models, traced one after the other, are what this is about.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    settings = Settings(
        full=FLAGS.full, seed=FLAGS.seed, data_dir=path(FLAGS.data_dir)
    )
    rows = []
    for number, claim in CLAIMS.items():
        if number not in only:
            continue
        if sys.stderr.isatty():
            print(f"measuring {number}: {claim.TITLE} ...", file=sys.stderr)
        started = time.perf_counter()
        result = claim.measure(settings)
        row = {
            "number": number,
            "claim": claim.TITLE,
            "section": claim.SECTION,
            "long": number in LONG,
            "expected": claim.EXPECTED,
            "measured": {k: float(v) for k, v in result.measured.items()},
            "holds": bool(result.holds),
            "note": result.note,
            "seconds": time.perf_counter() - started,
        }
        rows.append(row)
        print(_text(row), flush=True)
    return rows


def _text(row: dict[str, Any]) -> str:
    mark = "holds" if row["holds"] else "DOES NOT HOLD"
    length = ", long" if row["long"] else ""
    figures = "; ".join(f"{k} {v:.4g}" for k, v in row["measured"].items())
    lines = [
        f"{row['number']:2}  {mark:13}  {row['claim']}",
        f"    section {row['section']}{length}, {row['seconds']:.1f} s",
        f"    expected: {row['expected']}",
        f"    measured: {figures}",
    ]
    if row["note"]:
        lines.append(f"    note: {row['note']}")
    return "\n".join(lines)


def draw_section2(path: Path) -> None:
    """The figure of claims 4 to 6."""
    from analysis.claims import centering
    from analysis.claims.result import Settings
    from analysis.figures import section2

    settings = Settings(seed=FLAGS.seed)
    centered = centering.example(settings)
    divided = centering.example(settings, divides=True)
    paths = {
        "mean ignored, centering only": (centered, False),
        "mean and deviation ignored": (divided, False),
        "full gradient": (divided, True),
    }
    biases = {
        name: layer.descend(1000, full=full)
        for name, (layer, full) in paths.items()
    }
    losses = {
        name: [paths[name][0].loss(b) for b in path]
        for name, path in biases.items()
    }
    temporary = path.with_name(path.name + ".tmp")
    drawn = section2.figure(biases, losses)
    drawn.savefig(temporary, format="png", dpi=150)
    temporary.replace(path)


def main(argv: list[str]) -> int:
    """Runs; returns the exit code."""
    numbers = range(1, 18)
    try:
        only = [int(number) for number in FLAGS.only] or list(numbers)
    except ValueError:
        only = [0]
    wrong = [n for n in only if n not in numbers]
    if argv[1:] or wrong:
        print(
            "claims: --only takes numbers from 1 to 17, and nothing but flags "
            f"is taken. Received: {' '.join(argv[1:]) or FLAGS.only}",
            file=sys.stderr,
        )
        return 2
    from keras_bn import data
    from keras_bn.run_folder import write_json

    try:
        rows = run(only)
        if FLAGS.output:
            write_json(Path(FLAGS.output), rows)
        if FLAGS.figure:
            draw_section2(Path(FLAGS.figure))
    except (data.DataError, OSError) as error:
        print(f"claims: {error}", file=sys.stderr)
        return 1
    failed = [row["number"] for row in rows if not row["holds"]]
    print(
        f"{len(rows) - len(failed)} of {len(rows)} claims hold"
        + (f"; not: {', '.join(map(str, failed))}" if failed else "")
    )
    return 1 if failed else 0


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; a wrong one ends with one line and exit code 2."""
    try:
        return list(FLAGS(argv))
    except flags.Error as error:
        print(f"claims: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    flags.DEFINE_bool("full", False, "the long version, several seeds")
    flags.DEFINE_list("only", [], "numbers of claims, comma separated")
    flags.DEFINE_integer("seed", 0, "of everything that is drawn")
    flags.DEFINE_string("data_dir", None, "folder of mnist.npz; else digits")
    flags.DEFINE_string("output", None, "JSON file to write")
    flags.DEFINE_string("figure", None, "PNG of claims 4 to 6 to write")
    app.run(main, flags_parser=_parse)
