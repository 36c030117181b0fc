# SPDX-License-Identifier: Apache-2.0
"""Algorithm 2's estimates in NumPy float64, from all batches at once."""

import numpy as np


def paper(batches, axes):
    """Mean of the batch means; mean of m/(m-1) times the batch variances."""
    batches = [np.asarray(batch, np.float64) for batch in batches]
    counts = [np.prod([x.shape[axis] for axis in axes]) for x in batches]
    means = [x.mean(axes) for x in batches]
    variances = [
        m / (m - 1) * x.var(axes) for x, m in zip(batches, counts, strict=True)
    ]
    return np.mean(means, 0), np.mean(variances, 0)


def exact(batches, axes):
    """Mean and biased variance of all values."""
    values = np.concatenate(batches).astype(np.float64)
    return values.mean(axes), values.var(axes)
