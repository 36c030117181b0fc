# SPDX-License-Identifier: Apache-2.0
"""Singular values of Jacobians: of a layer, a block, a span, any function.

Section 3.3 of Ioffe & Szegedy 2015 conjectures that batch normalization brings
them close to 1, which preserves the size of gradients through many layers.

There are three methods, for different sizes:

- `"exact"`: the matrix and its SVD. About a second up to 1,000 x 1,000.
- `"iterative"`: some of the largest or smallest values, to rounding, by
  implicitly restarted Lanczos (SciPy's `svds`), which needs only products. The
  largest values converge fast; the smallest converge only if they are well
  separated, and then to about the root of the machine epsilon times the
  largest. If several values are equal, some may be missed.
- `"lanczos"`: the density of all values, by stochastic Lanczos quadrature
  (`analysis/measures/lanczos.py`); a few dozen products at any size.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, svds

from analysis import autodiff, spans, structure
from analysis.measures import lanczos, spectra
from analysis.measures.operators import JacobianOperator
from analysis.measures.spectra import Ends, Method, Spectrum
from keras_bn.arguments import one_of

Array = NDArray[np.floating[Any]]
Mode = Literal["inference", "batch"]

#: `method="auto"` computes the matrix up to this many entries (of all
#: examples together), and its SVD up to this many multiplications: about a
#: second of one CPU core, and less than half a gigabyte.
EXACT_ENTRIES = 5e7
EXACT_WORK = 2e9

#: Restarts of `"iterative"`, of some 20 products each, before it gives up.
MOST_RESTARTS = 200

#: How many largest values are computed in addition to those requested.
SPARE = 10


def jacobian_spectrum(
    function_or_layer: Callable[[Any], Any] | keras.layers.Layer,
    inputs: ArrayLike,
    *,
    mode: Mode = "inference",
    k: int | None = None,
    which: Ends = "largest",
    method: Method | Literal["auto"] = "auto",
    seed: int = 0,
) -> Spectrum:
    """Singular values of d outputs / d inputs: all, some, or their density.

    In `"inference"` mode each example has a Jacobian of its own, with the
    layer's moving statistics. In `"batch"` mode there is one Jacobian, of all
    outputs with respect to all inputs, with the statistics of the batch, which
    couple the examples; a layer's moving statistics do not change.

    Args:
        function_or_layer: A built Keras layer or model, an
            `analysis.Span`, or a function of one tensor.
        inputs: `[N, ...]`, floating point; of a span, the model's inputs. N
            must be 1 or more.
        mode: See above.
        k: How many values at either end; `None` for all of them.
        which: At which end if `k` is given: `"largest"`, `"smallest"` or
            `"both"`.
        method: See the module; `"auto"` chooses `"exact"` if that takes up to
            about a second, otherwise `"iterative"` if `k` is given, otherwise
            `"lanczos"`. The result names the method.
        seed: Seed of the random vectors that `"iterative"` starts from and
            `"lanczos"` averages over.

    Returns:
        The spectrum: `[N, ...]` arrays per example in inference mode.

    Raises:
        ValueError: If an argument is none of the above, `k` does not fit the
            method, the output does not depend on the inputs, or its
            derivatives are not finite.
        RuntimeError: If `"iterative"` does not converge.
    """
    return Jacobian(function_or_layer, mode=mode).spectrum(
        inputs, k=k, which=which, method=method, seed=seed
    )


def jacobian_singular_values(
    function_or_layer: Callable[[Any], Any] | keras.layers.Layer,
    inputs: ArrayLike,
    *,
    mode: Mode = "inference",
    k: int | None = None,
    method: Literal["auto", "exact", "iterative"] = "auto",
) -> Array:
    """All singular values of d outputs / d inputs, or the `k` largest.

    `jacobian_spectrum` returns more: means, the condition number, and the
    density of the values if computing all of them takes too long.

    Args:
        function_or_layer: See `jacobian_spectrum`.
        inputs: See `jacobian_spectrum`.
        mode: See `jacobian_spectrum`.
        k: How many of the largest; `None` for all.
        method: See `jacobian_spectrum`; without `k`, `"auto"` is
            `"exact"` at any size.

    Returns:
        Descending: `[N, k]` per example in inference mode, `[k]` in batch
        mode, with k = min(outputs, inputs) if `k` is `None`.

    Raises:
        ValueError: See `jacobian_spectrum`.
        RuntimeError: See `jacobian_spectrum`.
    """
    if method == "auto" and k is None:
        method = "exact"
    return jacobian_spectrum(
        function_or_layer, inputs, mode=mode, k=k, method=method
    ).values


class Jacobian:
    """A function's Jacobian, compiled once, to be measured at many inputs.

    Args:
        function_or_layer: See `jacobian_spectrum`.
        mode: See `jacobian_spectrum`.

    Raises:
        ValueError: If `mode` is neither.
    """

    def __init__(
        self,
        function_or_layer: Callable[[Any], Any] | keras.layers.Layer,
        *,
        mode: Mode = "inference",
    ) -> None:
        one_of("mode", mode, ("inference", "batch"))
        self._coupled = mode == "batch"
        function = _as_function(function_or_layer, training=self._coupled)
        self._products = autodiff.Products(function)
        self._matrix = (
            autodiff.jacobian(function)
            if self._coupled
            else autodiff.batch_jacobian(function)
        )
        self._where: Callable[..., tuple[Any, Sequence[Any]]] = _at_the_inputs
        if isinstance(function_or_layer, spans.Span):
            self._where = function_or_layer.locate

    def spectrum(
        self,
        inputs: ArrayLike,
        *,
        k: int | None = None,
        which: Ends = "largest",
        method: Method | Literal["auto"] = "auto",
        seed: int = 0,
        effort: lanczos.Effort = lanczos.THOROUGH,
    ) -> Spectrum:
        """As `jacobian_spectrum`; `effort` is that of method `"lanczos"`."""
        _check(k, which, method)
        where, context = self._where(inputs, training=self._coupled)
        operator = JacobianOperator(
            self._products, where, context, coupled=self._coupled
        )
        if method == "auto":
            method = choose_method(operator.blocks, *operator.shape, k=k)
        if method == "exact":
            matrices = self._matrix(where, *context)
            _check_finite(matrices)
            return _exact(matrices, k, which)
        _check_finite(operator @ np.ones(operator.shape[1], operator.dtype))
        if k is None:
            spectrum = _density(operator, seed, effort)
        else:
            spectrum = _ends(operator, k, which, seed)
        return _first(spectrum) if self._coupled else spectrum


def choose_method(
    blocks: int, rows: int, columns: int, *, k: int | None
) -> Method:
    """What `"auto"` chooses.

    Args:
        blocks: Number of Jacobians on the diagonal of the operator.
        rows: Rows of the operator, of all blocks together.
        columns: Columns, likewise.
        k: How many singular values are asked for; `None` for all.
    """
    entries = rows * columns / blocks
    work = entries * min(rows, columns) / blocks
    if entries <= EXACT_ENTRIES and work <= EXACT_WORK:
        return "exact"
    return "lanczos" if k is None else "iterative"


def singular_values(matrices: ArrayLike) -> Array:
    """Singular values `[..., min(p, q)]` of `[..., p, q]`, descending."""
    values: Array = np.linalg.svd(np.asarray(matrices), compute_uv=False)
    return values


def _exact(matrices: Array, k: int | None, which: Ends) -> Spectrum:
    spectrum = spectra.exact(singular_values(matrices))
    if k is None:
        return spectrum
    size = spectrum.values.shape[-1]
    if k > size:
        raise ValueError(
            f"k must be at most {size}, the number of singular values of the "
            f"Jacobian. Received: k={k}"
        )
    return spectra.ends(spectrum, k, which)


def _density(
    operator: JacobianOperator, seed: int, effort: lanczos.Effort
) -> Spectrum:
    nodes, weights = lanczos.density(
        _tall(operator),
        blocks=operator.blocks,
        effort=effort,
        seed=seed,
    )
    square = nodes**2
    return Spectrum(
        values=nodes,
        weights=weights,
        method="lanczos",
        which="all",
        mean_square=np.sum(weights * square, axis=-1),
        isometry_distance=np.sqrt(np.sum(weights * (square - 1) ** 2, axis=-1)),
    )


def _ends(
    operator: JacobianOperator, k: int, which: Ends, seed: int
) -> Spectrum:
    ends = ("largest", "smallest") if which == "both" else (which,)
    values = [
        np.concatenate([_end(operator.block(i), k, end, seed) for end in ends])
        for i in range(operator.blocks)
    ]
    square, distance = lanczos.mean_squares(
        _tall(operator), blocks=operator.blocks, seed=seed
    )
    return Spectrum(
        values=np.stack(values),
        weights=None,
        method="iterative",
        which=which,
        mean_square=square,
        isometry_distance=np.sqrt(distance),
    )


def _end(operator: LinearOperator, k: int, end: str, seed: int) -> Array:
    """The `k` largest or smallest singular values, descending."""
    size = min(operator.shape)
    if k >= size:
        raise ValueError(
            "method iterative gives fewer values than the Jacobian has "
            f"({size}). Received: k={k}"
        )
    start = np.random.default_rng(seed).normal(size=size)
    # A repeated value may be found too few times and the next value returned
    # in its place, so more values are computed than are returned.
    asked = min(k + SPARE, size - 1) if end == "largest" else k
    try:
        values = svds(
            operator,
            asked,
            which="LM" if end == "largest" else "SM",
            v0=start.astype(operator.dtype),
            maxiter=MOST_RESTARTS,
            return_singular_vectors=False,
        )
    except ArpackNoConvergence:
        raise RuntimeError(
            f"the {k} {end} of {size} singular values do not stand apart "
            f"enough to be found in {MOST_RESTARTS} restarts; method lanczos "
            "gives their density"
        ) from None
    return np.sort(values)[::-1][:k]


def _tall(operator: LinearOperator) -> LinearOperator:
    """The operator or its transpose, whichever has more rows."""
    rows, columns = operator.shape
    return operator if rows >= columns else operator.H


def _first(spectrum: Spectrum) -> Spectrum:
    """The only Jacobian's spectrum, without the axis of the examples."""
    arrays = {
        field.name: value[0]
        for field in dataclasses.fields(spectrum)
        if isinstance(value := getattr(spectrum, field.name), np.ndarray)
    }
    return dataclasses.replace(spectrum, **arrays)


def _as_function(thing: Any, *, training: bool) -> Callable[..., Any]:
    if isinstance(thing, keras.layers.Layer):
        thing = structure.Block(thing.name, (thing,))
    if isinstance(thing, structure.Block | spans.Span):
        return thing.function(training=training)
    function: Callable[..., Any] = thing
    return function


def _at_the_inputs(
    inputs: ArrayLike, *, training: bool
) -> tuple[ArrayLike, Sequence[ArrayLike]]:
    del training
    return inputs, ()


def _check(k: int | None, which: str, method: str) -> None:
    one_of("which", which, ("largest", "smallest", "both"))
    one_of("method", method, ("auto", "exact", "iterative", "lanczos"))
    if k is not None and k < 1:
        raise ValueError(f"k must be >= 1. Received: k={k}")
    if method == "iterative" and k is None:
        raise ValueError("method iterative needs a number k. Received: k=None")
    if method == "lanczos" and k is not None:
        raise ValueError(
            "method lanczos gives the density of all values, not k of them. "
            f"Received: k={k}"
        )


def _check_finite(values: Array) -> None:
    if not np.all(np.isfinite(values)):
        raise ValueError(
            "a Jacobian must be finite to have singular values. Received: "
            "one with values that are not"
        )
