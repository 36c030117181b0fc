# SPDX-License-Identifier: Apache-2.0
"""Jacobians entry by entry, and spectra known in closed form, in float64."""

import numpy as np


def central_differences(function, at, step=1e-6):
    """`[outputs, inputs]` of a function of an array."""
    columns = []
    for index in np.ndindex(at.shape):
        above, below = at.copy(), at.copy()
        above[index] += step
        below[index] -= step
        difference = np.asarray(function(above)) - np.asarray(function(below))
        columns.append(difference.ravel() / (2 * step))
    return np.stack(columns, axis=1)


def training_mode_batch_norm(x, gamma, epsilon):
    """Singular values of `[m, features]` -> BN with the batch's statistics.

    Per feature, with s = |gamma| / sqrt(var + eps): s for the m - 2 directions
    that neither shift nor scale the batch, s eps / (var + eps) for the one
    that scales it, 0 for the shift.
    """
    x = np.asarray(x, np.float64)
    variance = ((x - x.mean(axis=0)) ** 2).mean(axis=0)
    s = np.abs(gamma) / np.sqrt(variance + epsilon)
    values = [
        np.repeat(s, len(x) - 2),
        s * epsilon / (variance + epsilon),
        np.zeros_like(s),
    ]
    return np.sort(np.concatenate(values))[::-1]


def mean_square(values):
    total = 0.0
    for value in values:
        total += float(value) ** 2
    return total / len(values)


def isometry_distance(matrix):
    """Distance of JᵀJ (or J Jᵀ) from the identity, per root of its size."""
    rows, columns = matrix.shape
    gram = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
    return np.linalg.norm(gram - np.eye(len(gram))) / np.sqrt(len(gram))
