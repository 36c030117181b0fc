# SPDX-License-Identifier: Apache-2.0
"""One call of the layer in training, in NumPy float64.

Nothing is broadcast: a tensor becomes a table with one column per feature and
one row per value, and virtual batches are blocks of its rows.
"""

import math
from typing import NamedTuple

import numpy as np


class Step(NamedTuple):
    """`y`, `x_hat`, `dx` as the input, all else one entry per feature."""

    y: np.ndarray
    x_hat: np.ndarray
    inv_std: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    count: np.ndarray
    dx: np.ndarray
    dgamma: np.ndarray
    dbeta: np.ndarray


def step(
    x,
    gamma=1.0,
    beta=0.0,
    *,
    axes,
    epsilon,
    mask=None,
    dy=0.0,
    virtual_batch_size=None,
    unbiased=False,
):
    """Normalizes, and differentiates `sum(y * dy)`.

    `mask` broadcasts against `x`. The statistics are those to follow: pooled
    over virtual batches, with `1/(m-1)` if `unbiased`; `count` and `inv_std`
    are the largest of a virtual batch.
    """
    x = np.asarray(x, np.float64)
    counted = np.broadcast_to(True if mask is None else mask, x.shape)
    table, counted = columns(x, axes), columns(counted, axes)
    dy = columns(np.broadcast_to(np.asarray(dy, np.float64), x.shape), axes)
    features = [n for axis, n in enumerate(x.shape) if axis not in axes]
    gamma, beta = (
        np.broadcast_to(np.asarray(w, np.float64), features).reshape(-1)
        for w in (gamma, beta)
    )
    rows = len(table)
    if virtual_batch_size is not None:
        # The batch is the first axis; values of an example stay together.
        rows = virtual_batch_size * math.prod(x.shape[a] for a in axes[1:])
    blocks = [
        _block(*(t[i : i + rows] for t in (table, counted, dy)), gamma, beta,
               epsilon, unbiased)
        for i in range(0, max(len(table), 1), max(rows, 1))
    ]  # fmt: skip
    counts = np.stack([block.count for block in blocks])
    several = np.where(counts > 1, counts, 0.0)
    return Step(
        y=restored(np.concatenate([b.y for b in blocks]), x.shape, axes),
        x_hat=restored(
            np.concatenate([b.x_hat for b in blocks]), x.shape, axes
        ),
        inv_std=np.max([b.inv_std for b in blocks], axis=0).reshape(features),
        mean=_pooled([b.mean for b in blocks], counts).reshape(features),
        variance=_pooled([b.variance for b in blocks], several).reshape(
            features
        ),
        count=counts.max(0).reshape(features),
        dx=restored(np.concatenate([b.dx for b in blocks]), x.shape, axes),
        dgamma=sum(b.dgamma for b in blocks).reshape(features),
        dbeta=sum(b.dbeta for b in blocks).reshape(features),
    )


def _block(x, counted, dy, gamma, beta, epsilon, unbiased):
    """Algorithm 1 and the paper's chain, on a table.

    All values are normalized, so the sums over `dy` run over all; those that
    do not count have no part in mean and variance.
    """
    m = counted.sum(0)
    at_least_one = np.maximum(m, 1)
    mean = np.where(counted, x, 0.0).sum(0) / at_least_one
    centered = x - mean
    # A value that does not count may be anything, NaN too.
    own = np.where(counted, centered, 0.0)
    variance = (own**2).sum(0) / at_least_one
    std = np.sqrt(variance + epsilon)
    x_hat = centered / std

    dx_hat = dy * gamma
    dvar = (dx_hat * centered * -0.5 * std**-3).sum(0)
    dmean = -(dx_hat / std).sum(0) + dvar * -2.0 * own.sum(0) / at_least_one
    through_statistics = (dvar * 2.0 * own + dmean) / at_least_one
    estimate = variance * m / np.maximum(m - 1, 1) if unbiased else variance
    return Step(
        y=gamma * x_hat + beta,
        x_hat=x_hat,
        inv_std=1.0 / std,
        mean=mean,
        variance=estimate,
        count=m,
        dx=dx_hat / std + np.where(counted, through_statistics, 0.0),
        dgamma=(dy * x_hat).sum(0),
        dbeta=dy.sum(0),
    )


def inference_step(x, mean, variance, gamma, beta, *, axes, epsilon, dy):
    """The affine map with given statistics, and its gradients."""
    table, dy = columns(x, axes), columns(dy, axes)
    shape = np.shape(mean)
    mean, variance, gamma, beta = (
        np.broadcast_to(np.asarray(a, np.float64), shape).reshape(-1)
        for a in (mean, variance, gamma, beta)
    )
    inv_std = 1.0 / np.sqrt(variance + epsilon)
    x_hat = (table - mean) * inv_std
    return Step(
        y=restored(gamma * x_hat + beta, x.shape, axes),
        x_hat=restored(x_hat, x.shape, axes),
        inv_std=inv_std.reshape(shape),
        mean=mean.reshape(shape),
        variance=variance.reshape(shape),
        count=np.zeros(shape),
        dx=restored(dy * gamma * inv_std, x.shape, axes),
        dgamma=(dy * x_hat).sum(0).reshape(shape),
        dbeta=dy.sum(0).reshape(shape),
    )


def _pooled(statistics, weights):
    weighted = (weights * np.stack(statistics)).sum(0)
    return weighted / np.maximum(weights.sum(0), 1)


def columns(array, axes):
    """`[values, features]`; `axes` ascending, so batches stay together."""
    array = np.asarray(array)
    features = [a for a in range(array.ndim) if a not in axes]
    values = int(np.prod([array.shape[a] for a in axes]))
    width = int(np.prod([array.shape[a] for a in features]))
    return array.transpose(*axes, *features).reshape(values, width)


def restored(table, shape, axes):
    """The inverse of `columns`."""
    order = [*axes, *(a for a in range(len(shape)) if a not in axes)]
    permuted = table.reshape([shape[a] for a in order])
    return permuted.transpose(np.argsort(order))


def renorm_step(
    x, weights, *, epsilon, momentum, renorm_momentum, clipping, dy, mask=None
):
    """Batch Renormalization of `[N, C]`, arXiv 1702.03275, Algorithm 1.

    Returns `(y, dx, dgamma, dbeta)` and the weights that follow, by name.
    """
    w = {name: np.asarray(v, np.float64) for name, v in weights.items()}
    options = {"axes": (0,), "epsilon": epsilon, "mask": mask}
    plain = step(x, **options)
    std = np.sqrt(plain.variance + epsilon)
    moving = np.maximum(w["renorm_stddev"], epsilon**0.5)
    r = np.clip(
        std / moving, clipping.get("rmin", 0), clipping.get("rmax", np.inf)
    )
    dmax = clipping.get("dmax", np.inf)
    d = np.clip((plain.mean - w["renorm_mean"]) / moving, -dmax, dmax)
    # r and d are constants to the gradient.
    renormed = step(
        x, w["gamma"] * r, w["beta"] + w["gamma"] * d, dy=dy, **options
    )
    dgamma = (dy * (plain.y * r + d)).sum(0)
    outputs = renormed.y, renormed.dx, dgamma, renormed.dbeta

    def followed(name, value, rate):
        return rate * w[name] + (1 - rate) * value

    after = {
        "moving_mean": followed("moving_mean", plain.mean, momentum),
        "moving_stddev": followed("moving_stddev", std, momentum),
        "renorm_mean": followed("renorm_mean", plain.mean, renorm_momentum),
        "renorm_stddev": followed("renorm_stddev", std, renorm_momentum),
    }
    variance = np.maximum(after["moving_stddev"] ** 2 - epsilon, 0.0)
    return outputs, {**after, "moving_variance": variance}
