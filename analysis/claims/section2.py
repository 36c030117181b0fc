# SPDX-License-Identifier: Apache-2.0
"""The example of section 2: a layer that adds a bias and then normalizes.

    x = w v + b,    x_hat = x - E[x]   or   (x - E[x]) / sqrt(Var[x]),

per unit, E and Var over the batch, and a loss of x_hat. Gradient descent on b
(and w) can differentiate through E and Var, or take them for constants, as if
the normalization were done outside of it.

    symbol  shape         here
    v       [m, units]    the layer's input, fixed
    w, b    [units]       what is learnt
    t       [m, units]    targets; loss = mean_i sum_units (x_hat - t)^2 / 2

With constants, dl/db = mean_i(x_hat - t) / s, s being 1 or sqrt(Var[x]): as
mean(x_hat) = 0, that is -mean(t) / s, whatever b is. So b moves by
`rate * mean(t) / s` at every step, while x_hat and the loss do not change.
With the full gradient dl/dx sums to 0 over the batch, and so dl/db = 0.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from analysis import autodiff
from analysis.claims.pullback import Array
from keras_bn import ops

EXAMPLES, UNITS = 60, 5
RATE, STEPS = 0.1, 1000


@dataclasses.dataclass(frozen=True)
class Layer:
    """One way to normalize, and to learn.

    Attributes:
        full: Whether the gradient goes through E and Var.
        scaled: Whether the normalization divides by sqrt(Var[x]).
        learns_weight: Whether w is learnt too.
    """

    full: bool = False
    scaled: bool = False
    learns_weight: bool = False

    def normalized(self, x: Any) -> Any:
        """x_hat of `[m, units]`."""
        _, mean, variance = ops.batch_norm(x, axes=0, epsilon=0.0)
        if not self.full:
            mean, variance = map(keras.ops.stop_gradient, (mean, variance))
        if not self.scaled:
            variance = keras.ops.ones_like(variance)
        return ops.apply_statistics(x, mean, variance, axes=0, epsilon=0.0)

    def losses(self, weights: Any, v: Any, t: Any) -> Any:
        """The loss `[k]` at each of the weights `[2, k, units]`: w, then b."""
        w, b = weights[0], weights[1]
        x_hat = self.normalized(w * v[:, None] + b)
        squares = keras.ops.mean((x_hat - t[:, None]) ** 2, axis=0)
        return 0.5 * keras.ops.sum(squares, axis=-1)


@dataclasses.dataclass(frozen=True)
class Descent:
    """The path of gradient descent, including the start.

    Attributes:
        w: `[steps + 1, units]`.
        b: Likewise.
        loss: `[steps + 1]`.
    """

    w: Array
    b: Array
    loss: Array

    @property
    def distance(self) -> Array:
        """`[steps + 1]`: how far b has gone, `||b - b_0||`."""
        gone: Array = np.linalg.norm(self.b - self.b[0], axis=1)
        return gone


def data(seed: int) -> tuple[Array, Array]:
    """The input v and the targets t, `[m, units]`.

    The features differ from one another, and their means are far from 0.
    """
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.2, 0.8, UNITS)
    v = rng.normal(3, 1, UNITS) + spread * rng.normal(size=(EXAMPLES, UNITS))
    t = rng.normal(1, 0.5, UNITS) + 0.3 * rng.normal(size=(EXAMPLES, UNITS))
    return v, t


def start(seed: int) -> Array:
    """The first weights `[2, units]`: w = 1, and some b."""
    b = np.random.default_rng([seed, 1]).normal(size=UNITS)
    return np.stack([np.ones(UNITS), b])


def gradient(layer: Layer, v: Array, t: Array) -> Callable[[Array], Array]:
    """Returns dl/d(w, b) as a function of the weights `[2, units]`."""
    products = autodiff.Products(layer.losses)
    fixed = autodiff.tensor(v), autodiff.tensor(t)

    def at(weights: Array) -> Array:
        one = autodiff.tensor(weights[:, None])
        slope = products.backward(np.ones(1), one, *fixed)
        return slope[:, 0].astype(np.float64)

    return at


def descend(layer: Layer, seed: int, *, steps: int = STEPS) -> Descent:
    """Follows the gradient as the layer computes it."""
    v, t = data(seed)
    slope = gradient(layer, v, t)
    learnt = np.array([[float(layer.learns_weight)], [1.0]])
    path = [start(seed)]
    for _ in range(steps):
        path.append(path[-1] - RATE * learnt * slope(path[-1]))
    w, b = weights = np.stack(path, axis=1)
    return Descent(w, b, np.asarray(layer.losses(weights, v, t)))
