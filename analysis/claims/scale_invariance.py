# SPDX-License-Identifier: Apache-2.0
"""Claim 12: the scale of W does not matter to the layer Jacobian."""

import keras
import numpy as np

from analysis.claims.result import (
    Array,
    Result,
    Settings,
    array,
    draw,
    normalized,
    pulled_back,
    recipe,
    train,
)
from analysis.measures import gradients

TITLE = "larger rates are safe: BN((aW)u) = BN(Wu), gradients shrink by 1/a"
SECTION = "3.3"
EXPECTED = "exact for a from 1e-3 to 1e3 at eps = 0; weights grow with the rate"
SCALES = (1e-3, 0.1, 10.0, 1e3)


def measure(settings: Settings) -> Result:
    """Errors of the three identities; growth of the weights at x1, x5, x30."""
    u, w = draw(settings, 60, 8), draw(settings, 8, 5)
    g = np.random.default_rng(settings.seed + 2).normal(size=(60, 5))
    measured = {}
    for name, epsilon in (("eps 0", 0.0), ("eps 1e-3", 1e-3)):
        output, du, dw = _all(u, w, g, epsilon)
        errors = []
        for a in SCALES:
            scaled, du_a, dw_a = _all(u, a * w, g, epsilon)
            errors.append(
                max(
                    _relative(scaled, output),
                    _relative(du_a, du),
                    _relative(a * dw_a, dw),
                )
            )
        measured[f"error, {name}"] = max(errors)
    steps = settings.steps(1000, 50_000)
    growths = []
    for factor in (1, 5, 30):
        chosen = recipe(settings, steps=steps, learning_rate=0.1 * factor)
        model, _ = train(settings, chosen)
        start = _initial(model)
        now = np.asarray(model.get_layer("hidden2_linear").kernel)
        growths.append(gradients.growth([start], [now]))
        measured[f"growth of weights, x{factor}"] = growths[-1]
    holds = measured["error, eps 0"] < 1e-8 and growths[0] < growths[-1]
    return Result(
        measured,
        holds,
        "With eps > 0 the identities hold with eps/a^2 in place of eps: small "
        "weights lose them.",
    )


def _initial(model: keras.Model) -> Array:
    layer = model.get_layer("hidden2_linear")
    config = layer.kernel_initializer.get_config()
    initializer = type(layer.kernel_initializer).from_config(config)
    return np.asarray(initializer(layer.kernel.shape))


def _all(u: Array, w: Array, g: Array, epsilon: float) -> list[Array]:
    """Output, gradient of u, gradient of W."""

    def of_u(u: object) -> object:
        product = keras.ops.matmul(u, keras.ops.convert_to_tensor(w))
        return normalized(product, epsilon=epsilon)

    def of_w(w: object) -> object:
        product = keras.ops.matmul(keras.ops.convert_to_tensor(u), w)
        return normalized(product, epsilon=epsilon)

    return [
        array(of_w(keras.ops.convert_to_tensor(w))),
        pulled_back(of_u, u, g),
        pulled_back(of_w, w, g),
    ]


def _relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
