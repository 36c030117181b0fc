# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 and its chain of gradients, as printed, in NumPy float64."""

import numpy as np


def forward(x, gamma, beta, axes, epsilon):
    """Returns `(y, mean, variance)`; statistics of the feature shape."""
    x = np.asarray(x, np.float64)
    mean = x.mean(axis=axes, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    x_hat = (x - mean) / np.sqrt(variance + epsilon)
    y = expand(gamma, x, axes) * x_hat + expand(beta, x, axes)
    return y, np.squeeze(mean, axes), np.squeeze(variance, axes)


def backward(x, gamma, axes, epsilon, dy, dmean=0.0, dvariance=0.0):
    """The paper's equations, one by one; `(dx, dgamma, dbeta)`."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    m = np.prod([x.shape[axis] for axis in axes])
    mean = x.mean(axis=axes, keepdims=True)
    centered = x - mean
    variance = (centered**2).mean(axis=axes, keepdims=True)
    std = np.sqrt(variance + epsilon)

    def total(values):
        return values.sum(axis=axes, keepdims=True)

    dx_hat = dy * expand(gamma, x, axes)
    dvar = total(dx_hat * centered * -0.5 * std**-3)
    dvar = dvar + expand(dvariance, x, axes)
    dmu = -total(dx_hat / std) + dvar * total(-2.0 * centered) / m
    dmu = dmu + expand(dmean, x, axes)
    dx = dx_hat / std + dvar * 2.0 * centered / m + dmu / m
    dgamma = np.squeeze(total(dy * centered / std), axes)
    return dx, dgamma, np.squeeze(total(dy), axes)


def expand(values, x, axes):
    values = np.asarray(values, np.float64)
    if values.ndim == 0:
        return values
    shape = [1 if axis in axes else x.shape[axis] for axis in range(x.ndim)]
    return values.reshape(shape)


def central_differences(function, at, step):
    """Gradient of a scalar function of an array, entry by entry."""
    gradient = np.empty_like(at)
    for index in np.ndindex(at.shape):
        above, below = at.copy(), at.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient
