# SPDX-License-Identifier: Apache-2.0
"""Claim 5: with dE[x]/db, the gradient of b is 0.

dl/db = sum_i dl/dx_i = sum_i dl/dx_hat_i - sum_i mean(dl/dx_hat) = 0, for any
loss: a constant that is added to x is subtracted again with the mean of x.
"""

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from analysis import autodiff
from analysis.claims import section2
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.section2 import Array, Layer
from analysis.figures import bias

TRIALS = 20
LAYERS = (Layer(), Layer(full=True), Layer(full=True, scaled=True))


def measure(setting: Setting) -> Result:
    """The gradient of b at random v, b, and gradients of the loss."""
    rng = np.random.default_rng(setting.seed)
    shape = section2.EXAMPLES, section2.UNITS
    gradients = [slope_of(layer) for layer in LAYERS]
    norms = []
    for _ in range(TRIALS):
        v = rng.normal(rng.normal(0, 5), 1, shape)
        b = rng.normal(0, 3, section2.UNITS)
        upstream = rng.normal(1, 1, shape)  # dl/dx_hat, of whatever loss
        norms.append([each(upstream, b, v) for each in gradients])
    ignoring, centered, scaled = np.array(norms).T
    figures = {
        "|dl/db| without dE[x]/db, smallest": float(ignoring.min()),
        "|dl/db| over that, centered": float((centered / ignoring).max()),
        "|dl/db| over that, also divided by std": float(
            (scaled / ignoring).max()
        ),
    }
    return Result(
        figures=figures,
        note="a sum of numbers that cancel: 0 but for rounding in float64",
        draw=lambda: draw(setting.seed),
    )


def slope_of(layer: Layer) -> Callable[..., float]:
    """Returns `(dl/dx_hat, b, v) -> ||dl/db||`."""
    products = autodiff.Products(lambda b, v: layer.normalized(v + b))

    def at(upstream: Array, b: Array, v: Array) -> float:
        inputs = autodiff.tensor(b), autodiff.tensor(v)
        return float(np.linalg.norm(products.backward(upstream, *inputs)))

    return at


def draw(seed: int) -> Figure:
    """What each example contributes to dl/db, directly and through E[x]."""
    v, t = section2.data(seed)
    x = v + section2.start(seed)[1]
    x_hat = np.asarray(Layer().normalized(x))
    direct = (x_hat - t)[:, 0] / len(v)
    through_mean = np.full_like(direct, -direct.mean())
    return bias.contributions(direct, through_mean)


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    smallest, *zeros = figures.values()
    return smallest > 1e-3 and max(zeros) < 1e-12


CLAIM = Claim(
    number=5,
    title="question 2: the full gradient of b is 0",
    section="2",
    expected="0 to rounding (1e-12 of the gradient that ignores dE[x]/db), at "
    "any u, b and loss, with and without division by the std",
    measure=measure,
    holds=holds,
)
