# SPDX-License-Identifier: Apache-2.0
"""The measures by their definitions: loops over numbers, in float64."""

import math

import numpy as np


def units(values):
    """The numbers of each unit."""
    array = np.asarray(values, np.float64)
    return [
        array[..., unit].ravel().tolist() for unit in range(array.shape[-1])
    ]


def moments(numbers):
    mean = math.fsum(numbers) / len(numbers)
    variance = math.fsum((x - mean) ** 2 for x in numbers) / len(numbers)
    std = math.sqrt(variance)
    if not std:
        return mean, 0.0, 0.0
    cubes = math.fsum(((x - mean) / std) ** 3 for x in numbers)
    return mean, std, cubes / len(numbers)


def covariance(values):
    """The biased matrix, entry by entry."""
    numbers = units(values)
    means = [moments(x)[0] for x in numbers]
    return np.array(
        [
            [
                math.fsum(
                    (a - mean_a) * (b - mean_b)
                    for a, b in zip(x, y, strict=True)
                )
                / len(x)
                for y, mean_b in zip(numbers, means, strict=True)
            ]
            for x, mean_a in zip(numbers, means, strict=True)
        ]
    )


def correlation(values):
    matrix = covariance(values)
    std = np.sqrt(np.diag(matrix))
    return matrix / np.outer(std, std)


def directions(eigenvalues, share):
    count = 0
    while sum(eigenvalues[:count]) < share * sum(eigenvalues) * (1 - 1e-12):
        count += 1
    return count / len(eigenvalues)


def norm(arrays):
    return math.sqrt(
        math.fsum(float(x) ** 2 for a in arrays for x in np.ravel(a))
    )


def cosine(first, second):
    pairs = [
        (float(x), float(y))
        for a, b in zip(first, second, strict=True)
        for x, y in zip(np.ravel(a), np.ravel(b), strict=True)
    ]
    return math.fsum(x * y for x, y in pairs) / (norm(first) * norm(second))
