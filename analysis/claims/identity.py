# SPDX-License-Identifier: Apache-2.0
"""Claim 2: scale and shift keep what the layer can represent.

Section 3: "by setting gamma = sqrt(Var[x]) and beta = E[x], we could recover
the original activations". With epsilon, gamma = sqrt(Var[x] + eps).
"""

import numpy as np

from analysis.claims import scalars
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.z_score import inputs
from keras_bn import ops

EPSILON = 1e-3
DTYPES = ("float64", "float32")


def measure(setting: Setting) -> Result:
    """Largest error of the identity, relative to the largest input."""
    figures = {
        f"{dtype}: |y - x| / max |x|": max(
            error(x, dtype) for x in inputs(setting.seed).values()
        )
        for dtype in DTYPES
    }
    return Result(
        figures=figures,
    )


def error(x: np.ndarray, dtype: str) -> float:
    """Relative error of batch normalization whose gamma and beta undo it.

    Args:
        x: Input `[N, features]`.
        dtype: What it is computed in.

    Returns:
        The largest `|y - x|` over the largest `|x|`.
    """
    x = x.astype(dtype)
    wide = x.astype(np.float64)
    gamma = np.sqrt(wide.var(0) + EPSILON).astype(dtype)
    beta = wide.mean(0).astype(dtype)
    y, _, _ = ops.batch_norm(x, gamma, beta, axes=0, epsilon=EPSILON)
    return scalars.relative_error(np.asarray(y, np.float64), wide)


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    return all(
        figures[f"{dtype}: |y - x| / max |x|"] < 8 * np.finfo(dtype).eps
        for dtype in DTYPES
    )


CLAIM = Claim(
    number=2,
    title="scale and shift can undo the normalization",
    section="3",
    expected="y = x to rounding with gamma = sqrt(var + eps), beta = mean",
    measure=measure,
    holds=holds,
)
