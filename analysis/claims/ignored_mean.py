# SPDX-License-Identifier: Apache-2.0
"""Claim 4: the step is real, its effect is none (question 1)."""

import numpy as np

from analysis.claims.centering import example
from analysis.claims.result import Result, Settings

TITLE = "question 1: a step that ignores dE[x]/db moves b, and nothing else"
SECTION = "2"
EXPECTED = "u + b moves; its normalized value and the loss do not"


def measure(settings: Settings) -> Result:
    """One step: of b, of x_hat, of the loss."""
    layer = example(settings)
    before, after = layer.descend(1, full=False)
    measured = {
        "step of b": abs(after - before),
        "change of x_hat": np.abs(
            layer.normalized(after) - layer.normalized(before)
        ).max(),
        "change of the loss": abs(layer.loss(after) - layer.loss(before)),
    }
    holds = (
        measured["step of b"] > 1e-2
        and measured["change of x_hat"] < 1e-12
        and measured["change of the loss"] < 1e-12
    )
    return Result(measured, holds)
