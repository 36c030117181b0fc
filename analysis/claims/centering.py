# SPDX-License-Identifier: Apache-2.0
"""Claims 4 to 6: a gradient that ignores the mean, as in section 2.

The layer is `x = u + b`, `x_hat = x - E[x]` over the mini-batch, or that over
the standard deviation; its loss is a quadratic one.
"""

import numpy as np

from analysis.claims.result import Array, Settings, draw

RATE = 0.1


class Layer:
    """The example of section 2, on one mini-batch.

    Args:
        u: Inputs `[m]`.
        target: What the loss `mean((x_hat - target)^2) / 2` wants, `[m]`.
        divides: Whether x_hat is divided by the standard deviation.
    """

    def __init__(self, u: Array, target: Array, *, divides: bool = False):
        self._u = u
        self._target = target
        self._divides = divides

    def normalized(self, b: float) -> Array:
        """x_hat at some bias."""
        x = self._u + b
        centered = x - x.mean()
        return centered / x.std() if self._divides else centered

    def loss(self, b: float) -> float:
        """Of the normalized values."""
        return float(np.mean((self.normalized(b) - self._target) ** 2) / 2)

    def gradient(self, b: float, *, full: bool) -> float:
        """dl/db, with or without the mean's share (and the variance's)."""
        m = len(self._u)
        x_hat = self.normalized(b)
        g = (x_hat - self._target) / m
        scale = (self._u + b).std() if self._divides else 1.0
        if not full:
            return float(g.sum() / scale)
        dx = g - g.mean()
        if self._divides:
            dx = dx - x_hat * np.mean(g * x_hat)
        return float(dx.sum() / scale)

    def descend(self, steps: int, *, full: bool) -> Array:
        """The bias after 0, 1, ... steps of gradient descent from 0."""
        b, path = 0.0, [0.0]
        for _ in range(steps):
            b -= RATE * self.gradient(b, full=full)
            path.append(b)
        return np.array(path)


def example(settings: Settings, *, divides: bool = False) -> Layer:
    """Values of standard deviation 1/2, and a target whose mean is 1."""
    u = (draw(settings, 60) - 3.0) / 4.0
    target = 1.0 + np.random.default_rng(settings.seed + 1).normal(size=60)
    return Layer(u, target, divides=divides)
