# SPDX-License-Identifier: Apache-2.0
"""Measures the claims and says which hold.

    python -m analysis.claims                      all, small, within 2 minutes
    python -m analysis.claims --only=4,5,6 --figures=docs/pictures
    python -m analysis.claims --full --data_dir=DIR --logdir=runs/claims

The last one trains what is long on MNIST, for several seeds; runs that lie
complete in the log folder are not trained again, others go on.

Exit code 0 if all claims hold as worded, 1 if one fails to or cannot be
measured, 2 for wrong flags.
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
from analysis.claims import NUMBERS
from keras_bn.command_line import Command

FLAGS = flags.FLAGS


def numbers() -> list[int]:
    """The claims asked for; `ValueError` names one that there is not."""
    allowed = {str(number): number for number in NUMBERS}
    for name in FLAGS.only:
        if name not in allowed:
            raise ValueError(
                f"only must be numbers from 1 to {NUMBERS[-1]}. "
                f"Received: only={name}"
            )
    return sorted({allowed[name] for name in FLAGS.only}) or [*NUMBERS]


def measure(chosen: list[int], logdir: Path) -> list[dict[str, Any]]:
    """A row per claim, shown as soon as it is measured."""
    # Here, so that --help and wrong flags answer at once.
    from analysis.claims.claim import Setting
    from analysis.claims.registry import CLAIMS
    from analysis.claims.runs import Runs
    from analysis.figures import style

    # Many small models are traced; TensorFlow takes it for a mistake.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    runs = Runs(logdir, data_dir=FLAGS.data_dir, say=_progress)
    setting = Setting(runs=runs, seed=FLAGS.seed, full=FLAGS.full)
    rows = []
    for place, number in enumerate(chosen, start=1):
        claim = CLAIMS[number]
        _progress(f"[{place}/{len(chosen)}] {claim.title}")
        started = time.monotonic()
        result = claim.measure(setting)
        scale = "full" if FLAGS.full else "small; long with --full"
        name = claim.measure.__module__.rsplit(".", 1)[-1]
        row = {
            "number": number,
            "name": name,
            "claim": claim.title,
            "section": claim.section,
            "scale": scale if claim.trains else "",
            "expected": claim.expected,
            "measured": {k: _plain(v) for k, v in result.figures.items()},
            "holds": result.holds,
            "note": result.note,
            "seconds": round(time.monotonic() - started, 1),
        }
        rows.append(row)
        print("\n".join(_lines(row)), flush=True)
        if FLAGS.figures and claim.draw:
            path = Path(FLAGS.figures) / f"claim-{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            style.save(claim.draw(setting), path)
    return rows


def main() -> int:
    """Measures; returns the exit code."""
    chosen = numbers()
    output = Path(FLAGS.output) if FLAGS.output else None
    if output:
        files.check_writable(output)
    if FLAGS.figures:
        files.check_writable(Path(FLAGS.figures) / "claim.png")
    with _logdir() as logdir:
        rows = measure(chosen, logdir)
    if output:
        _write_json(output, rows)
    failed = [row["number"] for row in rows if not row["holds"]]
    print(
        f"{len(rows) - len(failed)} of {len(rows)} claims hold"
        + (f"; not: {', '.join(map(str, failed))}" if failed else "")
    )
    return 1 if failed else 0


@contextlib.contextmanager
def _logdir() -> Iterator[Path]:
    """The folder asked for, or one for as long as it lasts."""
    if FLAGS.logdir:
        yield Path(FLAGS.logdir)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _lines(row: dict[str, Any]) -> list[str]:
    verdict = "holds" if row["holds"] else "FAILS"
    scale = f", {row['scale']}" if row["scale"] else ""
    width = max(map(len, row["measured"]))
    return [
        f"{row['number']:>2}  {verdict}  {row['claim']}",
        f"    section {row['section']}, {row['seconds']:.1f} s{scale}",
        f"    expected: {row['expected']}",
        *(
            f"      {name:<{width}}  {'never' if v is None else f'{v:.4g}'}"
            for name, v in row["measured"].items()
        ),
        *([f"    note: {row['note']}"] if row["note"] else []),
    ]


def _plain(value: float) -> float | None:
    """JSON has no infinity, which stands for a step never reached."""
    return float(value) if math.isfinite(value) else None


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    from keras_bn.environment import commit, devices, environment
    from keras_bn.writing import write_json

    contents = {
        "environment": environment(device=devices()),
        "commit": commit(),
        "full": FLAGS.full,
        "seed": FLAGS.seed,
        "results": rows,
    }
    write_json(path, contents)


if __name__ == "__main__":
    flags.DEFINE_bool("full", False, "MNIST, 50,000 steps, several seeds")
    flags.DEFINE_list("only", [], "numbers of claims, comma separated")
    flags.DEFINE_integer("seed", 0, "the first one", lower_bound=0)
    flags.DEFINE_string("data_dir", None, "folder of mnist.npz, for --full")
    flags.DEFINE_string("logdir", None, "folder of the runs; else not kept")
    flags.DEFINE_string("output", None, "JSON file to write")
    flags.DEFINE_string("figures", None, "folder to draw into")
    Command("claims", main).run()
