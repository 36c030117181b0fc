# SPDX-License-Identifier: Apache-2.0
"""Claim 7: Algorithm 1's gradients, and who divides by m."""

import numpy as np

from analysis.claims.result import Array, Result, Settings, draw, pulled_back
from keras_bn import ops

TITLE = "Algorithm 1 and its gradients; the sums over m; who divides by m"
SECTION = "3"
EXPECTED = "equal to central differences; a mean loss divides all by m"
EPSILON = 1e-3


def measure(settings: Settings) -> Result:
    """Relative errors of x's gradient; ratio of sum and mean losses."""
    x = draw(settings, 12, 3)
    g = np.random.default_rng(settings.seed + 1).normal(size=x.shape)

    def function(x: object) -> object:
        return ops.batch_norm(x, axes=0, epsilon=EPSILON)[0]

    summed = pulled_back(function, x, g)
    averaged = pulled_back(function, x, g / len(x))
    expected = differences(x, g)
    error = np.abs(summed - expected).max() / np.abs(expected).max()
    ratio = np.abs(summed - len(x) * averaged).max()
    closed = closed_form(x, g)
    measured = {
        "error against differences": error,
        "error against the closed form": np.abs(summed - closed).max(),
        "sum - m * mean": ratio,
    }
    holds = error < 1e-6 and max(list(measured.values())[1:]) < 1e-10
    return Result(
        measured,
        holds,
        "Algorithm 1 sums over the mini-batch; the 1/m of a mean loss is "
        "already in the gradient that arrives.",
    )


def plain(x: Array) -> Array:
    """Algorithm 1 in NumPy."""
    centered = x - x.mean(0)
    normalized: Array = centered / np.sqrt(x.var(0) + EPSILON)
    return normalized


def differences(x: Array, g: Array, step: float = 1e-6) -> Array:
    """Central differences of `sum(g * plain(x))`."""
    result = np.empty_like(x)
    for index in np.ndindex(x.shape):
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            sides.append(np.sum(g * plain(moved)))
        result[index] = (sides[0] - sides[1]) / (2 * step)
    return result


def closed_form(x: Array, g: Array) -> Array:
    """`(g - mean g - x_hat mean(g x_hat)) / sqrt(var + eps)`."""
    x_hat = plain(x)
    inner: Array = g - g.mean(0) - x_hat * np.mean(g * x_hat, 0)
    result: Array = inner / np.sqrt(x.var(0) + EPSILON)
    return result
