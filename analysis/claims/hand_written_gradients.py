# SPDX-License-Identifier: Apache-2.0
"""Claim 7: the gradients of Algorithm 1, and who divides by m.

The paper's chain is compared, entry by entry, with central differences and
with automatic differentiation of the plain forward pass. Its sums over the
batch come from the chain rule: gamma and beta act on every example, so their
gradients are sums over all of them. The 1/m belongs to the loss: if that is a
mean instead of a sum over examples, every gradient is smaller by a factor m and
has the same direction.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from analysis.claims import scalars
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.pullback import Array, pull_back
from keras_bn import ops

EPSILON = 1e-3
STEP = 1e-6
NAMES = ("dx", "dgamma", "dbeta")


def measure(setting: Setting) -> Result:
    """The largest error of each gradient over its own largest entry."""
    x, gamma, beta, dy = values(setting.seed)
    ours = gradients(batch_norm, x, gamma, beta, dy)
    plain = gradients(plain_batch_norm, x, gamma, beta, dy)
    numeric = differences(x, gamma, beta, dy)
    of_sum, of_mean = (
        gradients(squared_error(reduction, dy), x, gamma, beta, np.ones(()))
        for reduction in ("sum", "sum_over_batch_size")
    )
    figures = {
        **_errors("autodiff", ours, plain),
        **_errors("finite differences", ours, numeric),
        "of a summed loss against m times of a mean": max(
            scalars.relative_error(a, len(x) * b)
            for a, b in zip(of_sum, of_mean, strict=True)
        ),
    }
    return Result(
        figures=figures,
        note="central differences with step 1e-6 are themselves that exact",
    )


def values(seed: int) -> tuple[Array, Array, Array, Array]:
    """The values of x `[8, 5]`, gamma and beta `[5]`, and dy `[8, 5]`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (8, 5)) * rng.uniform(0.5, 2, 5)
    return (
        x,
        rng.normal(1, 0.5, 5),
        rng.normal(size=5),
        rng.normal(1, 1, (8, 5)),
    )


def batch_norm(x: Any, gamma: Any, beta: Any) -> Any:
    """The forward pass with the hand-written backward pass."""
    return ops.batch_norm(x, gamma, beta, axes=0, epsilon=EPSILON)[0]


def plain_batch_norm(x: Any, gamma: Any, beta: Any) -> Any:
    """The forward pass as printed, with automatic differentiation."""
    mean = keras.ops.mean(x, axis=0)
    variance = keras.ops.mean((x - mean) ** 2, axis=0)
    return gamma * (x - mean) / keras.ops.sqrt(variance + EPSILON) + beta


def squared_error(reduction: str, targets: Array) -> Callable[..., Any]:
    """Keras' loss of the layer's output, as a function of x, gamma, beta."""
    loss = keras.losses.MeanSquaredError(reduction, dtype="float64")
    return lambda *inputs: loss(targets, batch_norm(*inputs))


def gradients(
    function: Callable[..., Any], x: Array, gamma: Array, beta: Array, dy: Array
) -> tuple[Array, ...]:
    """dx, dgamma and dbeta of `sum(dy * function(x, gamma, beta))`."""
    return (
        pull_back(function, dy, x, gamma, beta),
        pull_back(lambda g, x, b: function(x, g, b), dy, gamma, x, beta),
        pull_back(lambda b, x, g: function(x, g, b), dy, beta, x, gamma),
    )


def differences(
    x: Array, gamma: Array, beta: Array, dy: Array
) -> tuple[Array, ...]:
    """The same three by central differences."""

    def slope(argument: int) -> Array:
        given = [x, gamma, beta]
        found = np.empty(given[argument].shape)
        for index in np.ndindex(found.shape):
            losses = []
            for sign in (1, -1):
                moved = [array.copy() for array in given]
                moved[argument][index] += sign * STEP
                losses.append(np.sum(dy * np.asarray(batch_norm(*moved))))
            found[index] = (losses[0] - losses[1]) / (2 * STEP)
        return found

    return slope(0), slope(1), slope(2)


def _errors(
    name: str, ours: tuple[Array, ...], other: tuple[Array, ...]
) -> dict[str, float]:
    return {
        f"{gradient} against {name}": scalars.relative_error(a, b)
        for gradient, a, b in zip(NAMES, ours, other, strict=True)
    }


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    *errors, of_reductions = figures.values()
    return (
        max(errors[:3]) < 1e-12
        and max(errors[3:]) < 1e-7
        and of_reductions < 1e-12
    )


CLAIM = Claim(
    number=7,
    title="the gradients of Algorithm 1; the loss divides by m",
    section="3",
    expected="dx, dgamma, dbeta equal autodiff (1e-12) and central differences "
    "(1e-7); a mean over examples makes each m times smaller",
    measure=measure,
    holds=holds,
)
