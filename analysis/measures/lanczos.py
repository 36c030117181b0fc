# SPDX-License-Identifier: Apache-2.0
"""Spectra of linear maps that are known only by their products.

Golub and Kahan's bidiagonalization: from a unit vector v_1,

    alpha_j u_j     = A  v_j - beta_{j-1} u_{j-1}
    beta_j  v_{j+1} = Aᵀ u_j - alpha_j    v_j

gives orthonormal u and v and an upper bidiagonal B with A V = U B. The
singular values s_i of B and the squares w_i of the first components of its
right singular vectors are Gauss's quadrature rule for the measure that v_1
induces on the spectrum of A:

    sum_i w_i f(s_i)  ~  v_1ᵀ f(sqrt(AᵀA)) v_1,

exact for even polynomials up to degree 2k - 1 in s^2. Averaged over random v_1
the right-hand side is the mean of f over all singular values: stochastic
Lanczos quadrature (Ubaru, Chen & Saad 2017, SIAM J. Matrix Anal. Appl. 38).
For f = s^2 it is Hutchinson's estimate of the mean square.

Several maps of one shape run side by side: a block-diagonal operator.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

Array = NDArray[np.floating]


class Effort(NamedTuple):
    """How much work `density` may do.

    Attributes:
        iterations: Products with the map and its transpose per probe; also
            the number of nodes. Limited to the number of singular values.
        probes: Random starting vectors to average over.
    """

    iterations: int = 30
    probes: int = 5


THOROUGH = Effort()


def density(
    operator: LinearOperator,
    *,
    blocks: int = 1,
    effort: Effort = THOROUGH,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Quadrature rules for the densities of singular values.

    Args:
        operator: Real, `[blocks m, blocks n]`, block-diagonal, m >= n.
        blocks: Number of blocks.
        effort: How much work to do.
        seed: Seed of the random vectors.

    Returns:
        Nodes, descending, and weights, both `[blocks, probes iterations]`;
        the weights of a block add up to 1.
    """
    size = operator.shape[1] // blocks
    rules = [
        quadrature(*bidiagonalize(operator, start, effort.iterations))
        for start in _signs(blocks, size, effort.probes, seed, operator.dtype)
    ]
    nodes = np.concatenate([nodes for nodes, _ in rules], axis=-1)
    weights = np.concatenate([weights for _, weights in rules], axis=-1)
    order = np.argsort(-nodes, axis=-1)
    return (
        np.take_along_axis(nodes, order, axis=-1),
        np.take_along_axis(weights, order, axis=-1) / effort.probes,
    )


def mean_squares(
    operator: LinearOperator,
    *,
    blocks: int = 1,
    probes: int = 5,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Hutchinson's estimates of the means of s^2 and of (s^2 - 1)^2.

    Args:
        operator: Real, `[blocks m, blocks n]`, block-diagonal, m >= n.
        blocks: Number of blocks.
        probes: Random vectors to average over.
        seed: Seed of those vectors.

    Returns:
        Both means over the n singular values of each block, `[blocks]`.
    """
    size = operator.shape[1] // blocks
    square, distance = np.zeros((2, blocks))
    for v in _signs(blocks, size, probes, seed, operator.dtype):
        image = operator.matvec(v.ravel())
        back = operator.rmatvec(image).reshape(blocks, -1)
        square += np.sum(image.reshape(blocks, -1) ** 2, axis=-1)
        distance += np.sum((back - v) ** 2, axis=-1)
    return square / probes, distance / probes


def bidiagonalize(
    operator: LinearOperator, start: Array, iterations: int
) -> tuple[Array, Array]:
    """The bidiagonal matrices B of several maps, side by side.

    Each new u and v is made orthogonal to all earlier ones, twice; otherwise
    copies of converged singular values appear. Once nothing of a vector is
    left, `start` reaches no further part of the spectrum, and the rest of B is
    0.

    Args:
        operator: Real, `[blocks m, blocks n]`, block-diagonal.
        start: Unit vectors `[blocks, n]`.
        iterations: Size of B; at most n and m.

    Returns:
        Diagonal and superdiagonal, `[blocks, k]` and `[blocks, k - 1]`.
    """
    blocks, size = start.shape
    height = operator.shape[0] // blocks
    steps = min(iterations, size, height)
    right = np.empty((blocks, steps, size), start.dtype)
    left = np.empty((blocks, steps, height), start.dtype)
    alphas, betas = np.zeros((2, blocks, steps))
    v = start
    for j in range(steps):
        right[:, j] = v
        u = operator.matvec(v.ravel()).reshape(blocks, -1)
        u, alphas[:, j] = _next(u, left[:, :j])
        left[:, j] = u
        v = operator.rmatvec(u.ravel()).reshape(blocks, -1)
        v, betas[:, j] = _next(v, right[:, : j + 1])
    return alphas, betas[:, :-1]


def quadrature(diagonal: Array, superdiagonal: Array) -> tuple[Array, Array]:
    """Nodes and weights `[..., k]` of bidiagonal matrices' Gauss rules."""
    k = diagonal.shape[-1]
    matrix = np.zeros((*diagonal.shape, k))
    matrix[..., range(k), range(k)] = diagonal
    matrix[..., range(k - 1), range(1, k)] = superdiagonal
    _, nodes, right = np.linalg.svd(matrix)
    return nodes, right[..., 0] ** 2


def _signs(
    blocks: int, size: int, probes: int, seed: int, dtype: np.dtype
) -> list[Array]:
    """Unit vectors of random signs, which estimate traces with least noise."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 2, (blocks, size)) * 2 - 1).astype(dtype)
        / np.sqrt(size, dtype=dtype)
        for _ in range(probes)
    ]


def _next(v: Array, basis: Array) -> tuple[Array, Array]:
    """Directions of the parts of `v` outside a basis, and their lengths.

    Args:
        v: `[blocks, n]`.
        basis: Orthonormal, `[blocks, j, n]`.

    Returns:
        Unit vectors `[blocks, n]`, 0 where nothing is left, and `[blocks]`.
    """
    before = np.linalg.norm(v, axis=-1, keepdims=True)
    # BLAS reads beyond the ends of small arrays and warns about what it finds.
    with np.errstate(invalid="ignore", over="ignore"):
        for _ in range(2):
            components = np.einsum("bjn,bn->bj", basis, v, optimize=True)
            v = v - np.einsum("bjn,bj->bn", basis, components, optimize=True)
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    # If a vector is inside the basis, what is left of it is only rounding.
    length = np.where(length > 100 * np.finfo(v.dtype).eps * before, length, 0)
    unit = np.divide(v, length, out=np.zeros_like(v), where=length > 0)
    return unit, length[:, 0]
