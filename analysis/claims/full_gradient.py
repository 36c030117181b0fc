# SPDX-License-Identifier: Apache-2.0
"""Claim 5: with the mean's share the gradient is 0 (question 2)."""

import numpy as np

from analysis.claims.centering import example
from analysis.claims.result import (
    Result,
    Settings,
    draw,
    normalized,
    pulled_back,
)

TITLE = "question 2: with dE[x]/db the update of b is 0"
SECTION = "2"
EXPECTED = "the gradient of b is 0 to rounding, at any u, b and loss"


def measure(settings: Settings) -> Result:
    """Gradients of b: by hand, and of our operation, over many cases."""
    by_hand = [
        abs(example(settings, divides=divides).gradient(b, full=True))
        / (1 + abs(b))  # what u + b is rounded to
        for divides in (False, True)
        for b in (-100.0, 0.0, 0.1, 1e4)
    ]
    largest = 0.0
    for case in range(20):
        chosen = Settings(seed=settings.seed + case)
        u, cotangent = draw(chosen, 60, 5), draw(chosen, 5, 60).T ** 3
        dx = pulled_back(lambda x: normalized(x, epsilon=1e-3), u, cotangent)
        total = np.abs(dx.sum(0)) / np.abs(cotangent).sum(0)
        largest = max(largest, float(total.max()))
    measured = {
        "of the example, relative": max(by_hand),
        "of batch_norm, relative": largest,
    }
    return Result(measured, max(measured.values()) < 1e-12)
