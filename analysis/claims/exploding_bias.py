# SPDX-License-Identifier: Apache-2.0
"""Claim 6: why b explodes (question 3)."""

import numpy as np

from analysis.claims.centering import example
from analysis.claims.result import Result, Settings

TITLE = "question 3: without it b grows without bound at constant loss"
SECTION = "2"
EXPECTED = "1,000 steps: linear growth; faster with the division; none with all"
STEPS = 1000


def measure(settings: Settings) -> Result:
    """The bias after 1,000 steps, three ways, and what the loss did."""
    centered = example(settings)
    divided = example(settings, divides=True)
    paths = {
        "b, centering only": centered.descend(STEPS, full=False),
        "b, with division": divided.descend(STEPS, full=False),
        "b, full gradient": divided.descend(STEPS, full=True),
    }
    first = paths["b, centering only"]
    line = np.linspace(first[0], first[-1], STEPS + 1)
    losses = [centered.loss(b) for b in first[::100]]
    measured = {name: float(path[-1]) for name, path in paths.items()} | {
        "distance from a line": np.abs(first - line).max() / abs(first[-1]),
        "change of the loss": float(np.ptp(losses)),
    }
    holds = (
        abs(measured["b, centering only"]) > 10
        and abs(measured["b, with division"])
        > 1.5 * abs(measured["b, centering only"])
        and abs(measured["b, full gradient"]) < 1e-9
        and measured["distance from a line"] < 1e-9
        and measured["change of the loss"] < 1e-9
    )
    return Result(
        measured,
        holds,
        "The division helps where the deviation is below 1, as here (1/2): it "
        "multiplies the step by its inverse, and the larger b is no brake.",
    )
