# SPDX-License-Identifier: Apache-2.0
"""Every way to the singular values against the matrix itself."""

import keras
import numpy as np
import pytest

import keras_bn
from analysis import autodiff, jacobian_singular_values, jacobian_spectrum
from analysis.measures import jacobian as measure
from analysis.measures.operators import JacobianOperator
from tests.reference import jacobians as reference


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def batch_norm(rng):
    """A layer in float64 and a batch far from zero mean."""
    layer = keras_bn.BatchNormalization(dtype="float64")
    layer.build((None, 7))
    layer.gamma.assign(rng.normal(2, 1, 7))
    layer.moving_mean.assign(rng.normal(size=7))
    layer.moving_variance.assign(rng.uniform(0.5, 2, 7))
    return layer, rng.normal(size=(12, 7)) * rng.uniform(0.3, 3, 7) + 50


@pytest.fixture(scope="module")
def network(rng):
    """Four inputs, six outputs, coupled examples in training mode."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(6, dtype="float64"),
        keras_bn.BatchNormalization(dtype="float64"),
        keras.layers.Activation("tanh", dtype="float64"),
    ]
    model = keras.Sequential([keras.Input((4,), dtype="float64"), *layers])
    return model, rng.normal(1, 2, (5, 4))


def test_products_are_the_matrix_and_its_transpose(network, rng):
    model, x = network
    products = autodiff.Products(lambda x: model(x, training=False))
    operator = JacobianOperator(products, x)
    matrix = reference.central_differences(model, x)
    assert (operator.shape, operator.blocks) == ((30, 20), 5)
    v, u = rng.normal(size=20), rng.normal(size=30)
    np.testing.assert_allclose(operator @ v, matrix @ v, atol=1e-8)
    np.testing.assert_allclose(operator.T @ u, matrix.T @ u, atol=1e-8)
    # To rounding, whatever the backward pass computes.
    assert u @ (operator @ v) == pytest.approx(v @ (operator.T @ u), rel=1e-13)
    block = operator.block(3)
    own = matrix[18:24, 12:16]
    np.testing.assert_allclose(block @ v[:4], own @ v[:4], atol=1e-8)
    np.testing.assert_allclose(block.T @ u[:6], own.T @ u[:6], atol=1e-8)


@pytest.mark.parametrize("mode", ["inference", "batch"])
def test_exact_spectrum_equals_that_of_finite_differences(network, mode):
    model, x = network
    spectrum = jacobian_spectrum(model, x, mode=mode)
    assert spectrum.method == "exact"
    if mode == "batch":

        def train(x):
            with keras.StatelessScope():
                return model(x, training=True)

        matrices = [reference.central_differences(train, x)]
        spectrum_values = spectrum.values[np.newaxis]
    else:
        matrices = [
            reference.central_differences(model, x[i : i + 1]) for i in range(5)
        ]
        spectrum_values = spectrum.values
    for i, matrix in enumerate(matrices):
        values = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(spectrum_values[i], values, atol=1e-7)
        assert spectrum.mean_square.flat[i] == pytest.approx(
            reference.mean_square(values), rel=1e-6
        )
        assert spectrum.isometry_distance.flat[i] == pytest.approx(
            reference.isometry_distance(matrix), rel=1e-6
        )


def test_batch_mode_moves_no_statistic(network):
    model, x = network
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    for options in ({}, {"k": 3, "method": "iterative"}, {"method": "lanczos"}):
        jacobian_spectrum(model, x, mode="batch", **options)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_training_mode_batch_norm_in_closed_form(batch_norm):
    layer, x = batch_norm
    expected = reference.training_mode_batch_norm(x, layer.gamma, 1e-3)
    exact = jacobian_spectrum(layer, x, mode="batch")
    np.testing.assert_allclose(exact.values, expected, rtol=0, atol=1e-12)
    assert exact.condition_number == np.inf
    top = jacobian_singular_values(
        layer, x, mode="batch", k=20, method="iterative"
    )
    np.testing.assert_allclose(top, expected[:20], rtol=1e-6)


def test_smallest_values_that_stand_apart(rng):
    """Training-mode BN: one small value per feature, for the batch's scale."""
    x = rng.normal(size=(12, 7)) * rng.uniform(1, 2, 7) + 50
    layer = keras_bn.BatchNormalization(dtype="float64", epsilon=0.5)
    layer.build((None, 7))

    def shifted(x):
        """BN plus half the mean, so that there are no zeros."""
        with keras.StatelessScope():
            mean = keras.ops.mean(x, axis=0)
            return layer(x, training=True) + mean / 2

    matrix = reference.central_differences(shifted, x)
    values = np.linalg.svd(matrix, compute_uv=False)
    bottom = jacobian_spectrum(
        shifted, x, mode="batch", k=3, which="smallest", method="iterative"
    )
    np.testing.assert_allclose(bottom.values, values[-3:], atol=1e-6)


def test_training_mode_batch_norm_too_large_for_a_matrix(rng):
    """6,000 x 6,000: what the full SVD needs minutes for."""
    layer = keras_bn.BatchNormalization()
    layer.build((None, 100))
    x = rng.normal(size=(60, 100)) * rng.uniform(0.3, 3, 100) + 5
    x = x.astype(np.float32)
    expected = reference.training_mode_batch_norm(x, np.ones(100), 1e-3)
    spectrum = jacobian_spectrum(layer, x, mode="batch", k=5)
    assert spectrum.method == "iterative"
    np.testing.assert_allclose(spectrum.values, expected[:5], rtol=1e-6)


def test_iterative_top_values_of_a_large_convolution():
    """16,384 x 16,384, circular, so that its spectrum is known exactly."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 64, 64)).astype(np.float32) / 24
    x = rng.normal(size=(1, 16, 16, 64)).astype(np.float32)

    def circular(x):
        for axis in (1, 2):
            first, last = (keras.ops.take(x, [i], axis=axis) for i in (0, 15))
            x = keras.ops.concatenate([last, x, first], axis=axis)
        return keras.ops.conv(x, kernel, padding="valid")

    # One 64 x 64 matrix per spatial frequency.
    frequencies = np.fft.fft2(kernel.astype(np.float64), (16, 16), axes=(0, 1))
    expected = np.linalg.svd(frequencies, compute_uv=False).ravel()
    expected = np.sort(expected)[::-1]
    top = jacobian_spectrum(circular, x, k=5)
    assert top.method == "iterative"
    np.testing.assert_allclose(top.values[0], expected[:5], rtol=1e-5)
    density = jacobian_spectrum(circular, x)
    assert density.method == "lanczos"
    mean_square = reference.mean_square(expected)
    assert density.mean_square[0] == pytest.approx(mean_square, rel=0.01)
    assert density.values[0, 0] == pytest.approx(expected[0], rel=0.01)
    share = np.linspace(0.05, 0.95, 19)
    found = density.quantiles(share)
    # Read back: the true share of values below each estimated quantile.
    back = np.searchsorted(np.sort(expected), found) / len(expected)
    np.testing.assert_allclose(back, share, atol=0.03)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("mode", ["inference", "batch"])
def test_lanczos_is_exact_once_it_spans_the_space(rng, shape, mode):
    """As many iterations as values: the rule gives the probes' averages."""
    matrix = rng.normal(size=shape)
    x = rng.normal(size=(2, shape[1]))
    options = {"mode": mode, "method": "lanczos"}
    found = jacobian_spectrum(lambda x: x @ matrix.T, x, **options)
    values = np.linalg.svd(matrix, compute_uv=False)
    # Nodes of no weight come after the space that a probe reaches.
    nodes = found.values[found.weights > 1e-12]
    distinct = np.unique(np.round(nodes, 8))
    np.testing.assert_allclose(distinct[::-1], values, atol=1e-8)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1)
    np.testing.assert_allclose(
        found.condition_number, values[0] / values[-1], rtol=1e-6
    )
    assert found.values.shape[:-1] == ((2,) if mode == "inference" else ())


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 12), (12, 4), (6, 6)])
def test_mean_square_is_the_factor_of_squared_gradients(inputs, outputs, rng):
    """Times min(1, inputs / outputs), as the page of the curve says."""
    w = rng.normal(0, 1, (inputs, outputs)).astype(np.float32)
    spectrum = jacobian_spectrum(
        lambda x: keras.ops.matmul(x, w), np.ones((1, inputs), np.float32)
    )
    dy = rng.normal(size=(200_000, outputs))
    factor = np.sum((dy @ w.T) ** 2) / np.sum(dy**2)
    expected = spectrum.mean_square[0] * min(1, inputs / outputs)
    assert factor == pytest.approx(expected, rel=0.01)


def test_lanczos_of_a_multiple_of_the_identity():
    """One value: the iteration breaks down at once and must not divide by 0."""
    spectrum = jacobian_spectrum(
        lambda x: 3 * x, np.ones((2, 8)), method="lanczos"
    )
    np.testing.assert_allclose(spectrum.mean_square, 9)
    np.testing.assert_allclose(spectrum.isometry_distance, 8)
    np.testing.assert_allclose(spectrum.condition_number, 1)
    np.testing.assert_allclose(spectrum.quantiles([0.01, 0.5, 1]), 3)


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_ends_of_the_spectrum(rng, which, method):
    matrix = rng.normal(size=(9, 7))
    values = np.linalg.svd(matrix, compute_uv=False)
    expected = {
        "largest": values[:2],
        "smallest": values[-2:],
        "both": values[[0, 1, -2, -1]],
    }[which]
    spectrum = jacobian_spectrum(
        lambda x: x @ matrix.T, np.ones((3, 7)), k=2, which=which, method=method
    )
    np.testing.assert_allclose(
        spectrum.values, np.tile(expected, (3, 1)), rtol=1e-6
    )
    if which == "both":
        np.testing.assert_allclose(
            spectrum.condition_number, values[0] / values[-1], rtol=1e-6
        )
    else:
        with pytest.raises(ValueError, match=f"Received: which={which}"):
            _ = spectrum.condition_number
    with pytest.raises(ValueError, match=f"Received: which={which}"):
        spectrum.quantiles([0.5])


def test_quantiles_of_an_exact_spectrum_pool_the_examples():
    matrix = np.diag([1.0, 2.0])
    spectrum = jacobian_spectrum(
        lambda x: x[:, :1] * (x @ matrix), np.array([[0.0, 1.0], [0.0, 2.0]])
    )
    # The derivative at x_1 = 0 has one nonzero row or column each.
    np.testing.assert_allclose(spectrum.quantiles([0.5, 0.75, 1]), [0, 2, 4])


@pytest.mark.parametrize(
    ("blocks", "rows", "columns", "k", "expected"),
    [
        (60, 6_000, 6_000, None, "exact"),
        (1, 1_000, 1_000, None, "exact"),
        (1, 6_000, 6_000, None, "lanczos"),
        (1, 6_000, 6_000, 5, "iterative"),
        (20, 20 * 300_000, 20 * 10, None, "lanczos"),
        (1, 10**6, 10, 5, "exact"),
    ],
)
def test_auto_chooses_by_size(blocks, rows, columns, k, expected):
    assert measure.choose_method(blocks, rows, columns, k=k) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "training"}, "Received: mode=training"),
        ({"method": "power"}, "Received: method=power"),
        ({"k": 0}, "Received: k=0"),
        ({"k": 1, "which": "middle"}, "Received: which=middle"),
        ({"method": "iterative"}, "Received: k=None"),
        ({"method": "lanczos", "k": 3}, "Received: k=3"),
        ({"method": "iterative", "k": 4}, r"\(4\)\. Received: k=4"),
        ({"k": 5}, r"at most 4.* Received: k=5"),
        ({"k": 5, "which": "both", "mode": "inference"}, "Received: k=5"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        jacobian_spectrum(lambda x: 2 * x, np.ones((2, 4)), **options)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("mode", ["inference", "batch"])
@pytest.mark.parametrize(
    ("function", "x", "message"),
    [
        (keras.ops.floor, np.ones((2, 3), np.float32), "differentiable"),
        (lambda x: x, np.ones((2, 3), np.int32), "Received: dtype=int32"),
        (lambda x: x, np.ones((0, 3)), r"one example.* Received: shape=\(0, 3"),
        (lambda x: x, np.float32(1), r"Received: shape=\(\)"),
    ],
)
def test_no_derivative_is_a_clear_error(function, x, message, mode, method):
    with pytest.raises(ValueError, match=message):
        jacobian_spectrum(function, x, mode=mode, method=method)


def test_smallest_values_that_do_not_stand_apart(monkeypatch, rng):
    monkeypatch.setattr(measure, "MOST_RESTARTS", 1)
    matrix = rng.normal(size=(100, 100))
    with pytest.raises(RuntimeError, match=r"2 smallest of 100 .* lanczos"):
        jacobian_spectrum(
            lambda x: x @ matrix,
            np.ones((1, 100)),
            k=2,
            which="smallest",
            method="iterative",
        )


def test_half_precision_layers_are_measured_in_float32(rng):
    layer = keras.layers.Dense(5, dtype="mixed_float16", use_bias=False)
    layer.build((None, 5))
    x = rng.normal(size=(3, 5)).astype(np.float32)
    expected = np.linalg.svd(np.asarray(layer.kernel), compute_uv=False)
    for method in ("exact", "lanczos"):
        spectrum = jacobian_spectrum(layer, x, method=method)
        assert spectrum.values.dtype != np.float16
        np.testing.assert_allclose(
            spectrum.values[:, 0], expected[0], rtol=5e-3
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", ["exact", "lanczos", "iterative"])
@pytest.mark.parametrize("mode", ["inference", "batch"])
def test_half_precision_inputs(dtype, method, mode, rng):
    layer = keras.layers.Dense(5, dtype=dtype, use_bias=False)
    layer.build((None, 5))
    x = keras.ops.cast(rng.normal(size=(3, 5)), dtype)
    kernel = np.asarray(keras.ops.cast(layer.kernel, "float32"))
    k = {"k": 2} if method == "iterative" else {}
    spectrum = jacobian_spectrum(layer, x, mode=mode, method=method, **k)
    assert spectrum.values.dtype in (np.float32, np.float64)
    np.testing.assert_allclose(
        spectrum.values.max(),
        np.linalg.svd(kernel, compute_uv=False)[0],
        rtol=3e-2,
    )
