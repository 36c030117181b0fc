# SPDX-License-Identifier: Apache-2.0
"""Claim 6: why b explodes, and when scaling makes that worse.

Section 2: b "will grow indefinitely while the loss remains fixed. This problem
can get worse if the normalization not only centers but also scales".
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from analysis.claims import scalars, section2
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.section2 import Descent, Layer
from analysis.figures import bias
from analysis.measures import gradients

LAYERS = {
    "centered": Layer(),
    "divided by std": Layer(scaled=True),
    "divided by std, w learnt too": Layer(scaled=True, learns_weight=True),
    "full gradient": Layer(full=True),
    "full gradient, divided by std": Layer(full=True, scaled=True),
}


def measure(setting: Setting) -> Result:
    """How far b goes in 1,000 steps, how straight, and what the loss does."""
    found = {
        name: section2.descend(layer, setting.seed)
        for name, layer in LAYERS.items()
    }
    centered, scaled, learnt, *_ = found.values()
    v, t = section2.data(setting.seed)
    distances = [float(each.distance.max()) for each in found.values()]
    speed = distances[1] / distances[0]
    growth = gradients.growth([learnt.w[0]], [learnt.w[-1]])
    change = max(float(np.ptp(each.loss)) for each in found.values())
    figures = {
        "||b - b_0||, centered": distances[0],
        "its distance from a straight line": max(bend(centered), bend(scaled)),
        "speed with division by std": speed,
        "std of x, smallest": float(v.std(0).min()),
        "std of x, largest": float(v.std(0).max()),
        "mean(t v), smallest": float(np.mean(t * v, axis=0).min()),
        "growth of w, divided by std": growth,
        "||b - b_0||, full gradient": max(distances[-2:]),
        "change of the loss, largest": change,
    }
    return Result(
        figures=figures,
        note="b moves by rate * mean(t) / std: faster with the division only "
        "where std < 1, as here; but then w runs away too, outwards as "
        "mean(t v) > std",
        draw=lambda: draw(found),
    )


def bend(descent: Descent) -> float:
    """Largest deviation of b from linear growth, over its final distance."""
    b = descent.b
    share = np.linspace(0, 1, len(b))[:, None]
    straight = b[0] + share * (b[-1] - b[0])
    return scalars.largest(b - straight) / float(descent.distance[-1])


def draw(found: Mapping[str, Descent]) -> Figure:
    """How far b has gone, and the loss, over the steps of some layers."""
    shown = ("centered", "divided by std", "full gradient")
    return bias.explosion(
        {name: found[name].distance for name in shown},
        {name: found[name].loss for name in shown},
    )


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return (
        figures["||b - b_0||, centered"] > 10
        and figures["its distance from a straight line"] < 1e-9
        and figures["speed with division by std"] > 1
        and figures["growth of w, divided by std"] > 2
        and figures["||b - b_0||, full gradient"] < 1e-9
        and figures["change of the loss, largest"] < 1e-9
    )


CLAIM = Claim(
    number=6,
    title="question 3: why b then explodes",
    section="2",
    expected="in 1,000 steps b grows linearly at a constant loss (1e-9), "
    "faster with division by a std < 1; with the full gradient it stays",
    measure=measure,
    holds=holds,
)
