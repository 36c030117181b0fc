# SPDX-License-Identifier: Apache-2.0
"""Batch Renormalization (Ioffe 2017, arXiv 1702.03275).

In training `x_hat = (x - mean_B) / std_B * r + d`, with

    r = stop_gradient(clip(std_B / std, rmin, rmax))
    d = stop_gradient(clip((mean_B - mean) / std, -dmax, dmax))

so that, apart from clipping, training normalizes with the moving statistics as
inference does, while the gradient still flows through the batch's statistics.
"""

from collections.abc import Mapping
from typing import Any

import keras

from keras_bn import arguments

Tensor = Any

_KEYS = ("rmax", "rmin", "dmax")


def checked_clipping(clipping: Mapping[str, float] | None) -> dict[str, float]:
    """The clipping limits, checked; empty for none.

    Raises:
        ValueError: If a key is unknown, a limit is negative or no number, or
            `rmax < rmin`.
    """
    if not isinstance(clipping, Mapping | None):
        raise ValueError(
            "renorm_clipping must be a dictionary or None. "
            f"Received: renorm_clipping={clipping}"
        )
    limits = dict(clipping or {})
    if set(limits) - set(_KEYS):
        raise ValueError(
            "Received invalid keys for `renorm_clipping`: allowed are "
            f"{', '.join(_KEYS)}. Received: renorm_clipping={limits}"
        )
    limits = {
        key: None if limit is None else arguments.real(key, limit)
        for key, limit in limits.items()
    }
    rmax, rmin = limits.get("rmax"), limits.get("rmin")
    if rmax is not None and rmin is not None and rmax < rmin:
        raise ValueError(
            "rmax should be >= rmin in `renorm_clipping`. "
            f"Received: rmax={rmax}, rmin={rmin}"
        )
    for key, limit in limits.items():
        if limit is not None and not limit >= 0:
            raise ValueError(
                f"{key} should be non-negative in `renorm_clipping`. "
                f"Received: {key}={limit}"
            )
    return limits


def corrections(
    batch_mean: Tensor,
    batch_std: Tensor,
    mean: Tensor,
    std: Tensor,
    *,
    clipping: Mapping[str, float],
) -> tuple[Tensor, Tensor]:
    """The two corrections, constant to the gradient.

    Args:
        batch_mean: Mean of the batch, of the feature shape.
        batch_std: `sqrt(variance + epsilon)` of the batch, likewise.
        mean: Moving mean, likewise.
        std: Moving standard deviation, likewise, > 0.
        clipping: Any of `rmin`, `rmax`, `dmax`; a missing one does not clip.

    Returns:
        `(r, d)`, of the feature shape.
    """
    r = batch_std / std
    d = (batch_mean - mean) / std
    if clipping.get("rmin") is not None:
        r = keras.ops.maximum(r, clipping["rmin"])
    if clipping.get("rmax") is not None:
        r = keras.ops.minimum(r, clipping["rmax"])
    if clipping.get("dmax") is not None:
        d = keras.ops.clip(d, -clipping["dmax"], clipping["dmax"])
    return keras.ops.stop_gradient(r), keras.ops.stop_gradient(d)
