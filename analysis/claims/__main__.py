# SPDX-License-Identifier: Apache-2.0
"""Measures the claims and says which hold.

    python -m analysis.claims                      all, small, 3 minutes
    python -m analysis.claims --only=4,5,6 --figures=docs/pictures
    python -m analysis.claims --full --data_dir=DIR --logdir=runs/claims

The last command runs the long trainings on MNIST, for several seeds. Complete
runs in the log folder are not trained again, interrupted ones are resumed.
`--output` is written after each claim, so interruptions keep the rows so far.

The exit code is 0 if all claims hold, except those that our networks are known
not to show; 1 if another claim fails or one cannot be measured; 2 for wrong
flags.
"""

import contextlib
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags

from analysis import files
from analysis.claims.claim import Claim, Result, Setting
from analysis.claims.registry import CLAIMS
from analysis.claims.runs import Runs
from analysis.figures import style
from keras_bn.command_line import Command
from keras_bn.environment import devices, environment
from keras_bn.writing import write_json

FLAGS = flags.FLAGS


def numbers() -> list[int]:
    """The requested claims; raises `ValueError` for an unknown number."""
    allowed = {str(number): number for number in CLAIMS}
    for name in FLAGS.only:
        if name not in allowed:
            raise ValueError(
                f"only must be numbers from 1 to {len(CLAIMS)}. "
                f"Received: only={name}"
            )
    return sorted({allowed[name] for name in FLAGS.only}) or [*CLAIMS]


def measure(chosen: list[int], logdir: Path) -> Iterator[dict[str, Any]]:
    """A row per claim, as soon as it is measured; then its picture."""
    # Many small models are traced, which TensorFlow would warn about.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    runs = Runs(logdir, data_dir=FLAGS.data_dir, say=_progress)
    setting = Setting(runs=runs, seed=FLAGS.seed, full=FLAGS.full)
    for place, number in enumerate(chosen, start=1):
        claim = CLAIMS[number]
        _progress(f"[{place}/{len(chosen)}] {claim.title}")
        started = time.monotonic()
        result = claim.measure(setting)
        yield row_of(claim, result, seconds=time.monotonic() - started)
        if FLAGS.figures and result.draw:
            path = Path(FLAGS.figures) / f"claim-{claim.name}.png"
            style.save(result.draw(), path)


def row_of(claim: Claim, result: Result, *, seconds: float) -> dict[str, Any]:
    """The row that is written for a claim.

    JSON has neither infinity nor NaN. Infinity, which means a step that was
    never reached, becomes `None`. A figure that is NaN is left out of
    `measured`, the note says so, and the claim does not hold.
    """
    scale = "full" if FLAGS.full else "small; long with --full"
    measured = {
        name: float(value) if math.isfinite(value) else None
        for name, value in result.figures.items()
        if not math.isnan(value)
    }
    failures = [
        f"{name} is not a number"
        for name in result.figures
        if name not in measured
    ]
    return {
        "number": claim.number,
        "name": claim.name,
        "claim": claim.title,
        "section": claim.section,
        "scale": scale if claim.trains else "",
        "expected": claim.expected,
        "measured": measured,
        "holds": not failures and bool(claim.holds(result.figures)),
        "not_seen": not failures
        and claim.not_seen is not None
        and bool(claim.not_seen(result.figures)),
        "note": "; ".join(filter(None, [*failures, result.note])),
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """Measures; returns the exit code."""
    chosen = numbers()
    output = Path(FLAGS.output) if FLAGS.output else None
    if output:
        files.check_writable(output)
    if FLAGS.figures:
        files.check_writable(Path(FLAGS.figures) / "claim.png")
    about = _about() if output else {}
    rows: list[dict[str, Any]] = []
    with _logdir() as logdir:
        for row in measure(chosen, logdir):
            rows.append(row)
            if output:
                write_json(output, {**about, "results": rows})
            print("\n".join(_lines(row)), flush=True)
    print(f"{sum(row['holds'] for row in rows)} of {len(rows)} claims hold")
    return int(any(_verdict(row) == "FAILS" for row in rows))


def _about() -> dict[str, Any]:
    """The facts that all rows share."""
    return {
        "environment": environment(device=devices()),
        "full": FLAGS.full,
        "seed": FLAGS.seed,
    }


@contextlib.contextmanager
def _logdir() -> Iterator[Path]:
    """The requested folder, or a temporary one."""
    if FLAGS.logdir:
        yield Path(FLAGS.logdir)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _verdict(row: dict[str, Any]) -> str:
    if row["holds"]:
        return "holds"
    return "not seen" if row["not_seen"] else "FAILS"


def _lines(row: dict[str, Any]) -> list[str]:
    scale = f", {row['scale']}" if row["scale"] else ""
    width = max(map(len, row["measured"]), default=0)
    return [
        f"{row['number']:>2}  {_verdict(row)}  {row['claim']}",
        f"    section {row['section']}, {row['seconds']:.1f} s{scale}",
        f"    expected: {row['expected']}",
        *(
            f"      {name:<{width}}  {'never' if v is None else f'{v:.4g}'}"
            for name, v in row["measured"].items()
        ),
        *([f"    note: {row['note']}"] if row["note"] else []),
    ]


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    flags.DEFINE_bool("full", False, "on MNIST: 50,000 steps, several seeds")
    flags.DEFINE_list("only", [], "numbers of claims, comma separated")
    flags.DEFINE_integer("seed", 0, "the first seed", lower_bound=0)
    flags.DEFINE_string("data_dir", None, "folder of mnist.npz, for --full")
    flags.DEFINE_string("logdir", None, "folder of the runs; if none, not kept")
    flags.DEFINE_string("output", None, "JSON file to write")
    flags.DEFINE_string("figures", None, "folder to write pictures to")
    Command("claims", main).run()
