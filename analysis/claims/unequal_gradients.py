# SPDX-License-Identifier: Apache-2.0
"""Claim 4: a step that ignores dE[x]/db moves b, and nothing else.

Section 2: u + (b + db) - E[u + (b + db)] = u + b - E[u + b].
"""

import numpy as np
from matplotlib.figure import Figure

from analysis.claims import scalars, section2
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.section2 import Array
from analysis.figures import bias

IGNORING = section2.Layer()
#: Steps after which the picture shows x and x_hat.
STEPS = 10


def measure(setting: Setting) -> Result:
    """The effect of one step at rate 0.1 on x, x_hat and the loss."""
    v, t = section2.data(setting.seed)
    found = section2.descend(IGNORING, setting.seed, steps=STEPS)
    x = found.w * v[:, None] + found.b  # [m, steps + 1, units]
    x_hat = np.asarray(IGNORING.normalized(x))
    db = found.b[1] - found.b[0]
    figures = {
        "|change of x|, smallest": float(np.abs(x[:, 1] - x[:, 0]).min()),
        "|change of x_hat|, largest": scalars.largest(
            x_hat[:, 1] - x_hat[:, 0]
        ),
        "|change of the loss|": scalars.largest(found.loss[1] - found.loss[0]),
        "|db - rate * mean(t)|, largest": scalars.largest(
            db - section2.RATE * t.mean(0)
        ),
    }
    return Result(
        figures=figures,
        note="E[x] is the mean of u + b, so it moves along with b: the two "
        "gradients differ by exactly the part that cancels the step",
        draw=lambda: draw(x, x_hat),
    )


def draw(x: Array, x_hat: Array) -> Figure:
    """The unit that moves most, before and after all steps.

    Args:
        x: `[m, steps + 1, units]`.
        x_hat: Likewise.
    """
    unit = np.argmax(np.abs(x[0, -1] - x[0, 0]))
    shown = ([each[:, i, unit] for i in (0, -1)] for each in (x, x_hat))
    return bias.one_step(*shown)


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    changed, *unchanged = figures.values()
    return changed > 1e-3 and max(unchanged) < 1e-12


CLAIM = Claim(
    number=4,
    title="question 1: a step that ignores dE[x]/db changes only b",
    section="2",
    expected="b, and u + b, move by rate * mean(t); x_hat and loss do not "
    "(1e-12)",
    measure=measure,
    holds=holds,
)
