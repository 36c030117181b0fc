# SPDX-License-Identifier: Apache-2.0
"""Claim 4: a step that ignores dE[x]/db moves b, and nothing else.

Section 2: u + (b + db) - E[u + (b + db)] = u + b - E[u + b].
"""

import numpy as np
from matplotlib.figure import Figure

from analysis.claims import section2
from analysis.claims.claim import Claim, Result, Setting
from analysis.figures import bias

IGNORING = section2.Layer()


def measure(setting: Setting) -> Result:
    """One step at rate 0.1, seen in x, in x_hat and in the loss."""
    v, t = section2.data(setting.seed)
    path = section2.descend(IGNORING, setting.seed, steps=1)
    before, after = path.w[:, None] * v + path.b[:, None]
    moved = np.abs(after - before)
    normalized = [np.asarray(IGNORING.normalized(x)) for x in (before, after)]
    figures = {
        "|change of x|, smallest": float(moved.min()),
        "|change of x_hat|, largest": float(
            np.abs(normalized[1] - normalized[0]).max()
        ),
        "|change of the loss|": float(abs(path.loss[1] - path.loss[0])),
        "|db - rate * mean(t)|, largest": float(
            np.abs(path.b[1] - path.b[0] - section2.RATE * t.mean(0)).max()
        ),
    }
    changed, *unchanged = figures.values()
    return Result(
        figures=figures,
        holds=changed > 1e-3 and max(unchanged) < 1e-12,
        note="E[x] is the mean of u + b, so it moves along with b: the two "
        "gradients differ by exactly the part that cancels the step",
    )


def draw(setting: Setting) -> Figure:
    """X and x_hat of one unit before and after ten steps."""
    v, _ = section2.data(setting.seed)
    path = section2.descend(IGNORING, setting.seed, steps=10)
    x = [path.w[i, :, None] * v.T + path.b[i, :, None] for i in (0, 10)]
    unit = int(np.argmax(np.abs(path.b[-1] - path.b[0])))
    x_hat = [np.asarray(IGNORING.normalized(each.T)).T for each in x]
    return bias.one_step([a[unit] for a in x], [a[unit] for a in x_hat])


CLAIM = Claim(
    number=4,
    title="question 1: a step that ignores dE[x]/db changes only b",
    section="2",
    expected="b, and u + b, move by rate * mean(t); x_hat and loss do not "
    "(1e-12)",
    measure=measure,
    draw=draw,
)
