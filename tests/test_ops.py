# SPDX-License-Identifier: Apache-2.0
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bn
from tests.reference import batch_norm as reference

EPSILON = 1e-3
#: shape, axes that the statistics are taken over
CASES = {
    "rank2": ((7, 3), (0,)),
    "rank2_features_first": ((3, 7), (1,)),
    "rank3": ((4, 5, 3), (0, 1)),
    "rank4": ((3, 4, 2, 3), (0, 1, 2)),
    "rank4_channels_first": ((3, 3, 4, 2), (0, 2, 3)),
    "rank4_per_activation": ((5, 2, 3, 2), (0,)),
    "rank4_two_feature_axes": ((4, 2, 3, 2), (0, 2)),
    "rank5": ((2, 3, 2, 2, 3), (0, 1, 2, 3)),
}
MODES = ("eager", "graph", "xla")


def inputs(shape, axes, *, mean=1e3, dtype=np.float64, seed=0):
    """Features that differ in mean and spread, and a cotangent per output."""
    rng = np.random.default_rng(seed)
    features = [n for axis, n in enumerate(shape) if axis not in axes]
    spread = reference.expand(
        rng.uniform(0.5, 2, features), np.empty(shape), axes
    )
    offset = reference.expand(
        rng.normal(mean, 3, features), np.empty(shape), axes
    )
    arrays = {
        "x": rng.normal(size=shape) * spread + offset,
        "gamma": rng.uniform(0.5, 2, features),
        "beta": rng.normal(size=features),
        "dy": rng.normal(size=shape),
        "dmean": rng.normal(size=features),
        "dvariance": rng.normal(size=features),
    }
    return {name: array.astype(dtype) for name, array in arrays.items()}


def compiled(function, mode):
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "xla")


def loss(arrays, axes, batch_norm):
    """A scalar that reaches x through y, the mean and the variance."""

    def of(x, gamma, beta):
        y, mean, variance = batch_norm(x, gamma, beta, axes, EPSILON)
        return (
            tf.reduce_sum(y * arrays["dy"])
            + tf.reduce_sum(mean * arrays["dmean"])
            + tf.reduce_sum(variance * arrays["dvariance"])
        )

    return of


def ours(x, gamma, beta, axes, epsilon):
    return keras_bn.ops.batch_norm(x, gamma, beta, axes=axes, epsilon=epsilon)


def plain(x, gamma, beta, axes, epsilon):
    """The forward as one would write it, differentiated by TensorFlow."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean((x - mean) ** 2, axes, keepdims=True)
    x_hat = (x - mean) / tf.sqrt(variance + tf.constant(epsilon, x.dtype))
    gamma = tf.reshape(gamma, tf.shape(mean))
    beta = tf.reshape(beta, tf.shape(mean))
    y = gamma * x_hat + beta
    return y, tf.squeeze(mean, axes), tf.squeeze(variance, axes)


def gradients(function, arrays):
    at = [tf.constant(arrays[name]) for name in ("x", "gamma", "beta")]
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = function(*at)
    return tape.gradient(value, at)


def second_order(function, arrays):
    """Gradient of the squared norm of the gradient, as a penalty uses it."""
    at = [tf.constant(arrays[name]) for name in ("x", "gamma", "beta")]
    with tf.GradientTape() as outer:
        outer.watch(at)
        with tf.GradientTape() as inner:
            inner.watch(at)
            value = function(*at)
        first = inner.gradient(value, at)
        penalty = sum(tf.reduce_sum(g**2 + g**3) for g in first)
    return outer.gradient(penalty, at, unconnected_gradients="zero")


def relative_error(measured, expected):
    measured, expected = np.asarray(measured), np.asarray(expected)
    scale = max(np.abs(expected).max(), 1e-300)
    return np.abs(measured - expected).max() / scale


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_forward_equals_the_reference(case, mode):
    shape, axes = CASES[case]
    a = inputs(shape, axes)
    run = compiled(
        lambda x, gamma, beta: ours(x, gamma, beta, axes, EPSILON), mode
    )
    measured = run(*(tf.constant(a[n]) for n in ("x", "gamma", "beta")))
    expected = reference.forward(a["x"], a["gamma"], a["beta"], axes, EPSILON)
    for got, want in zip(measured, expected, strict=True):
        assert relative_error(got, want) < 1e-11


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_finite_differences_and_the_printed_chain(case, mode):
    shape, axes = CASES[case]
    a = inputs(shape, axes)
    # Differences are taken at the same x without its mean of 1e3, which the
    # gradients cannot see: beside it a step would drown in rounding.
    near = {**a, "x": a["x"] - 1e3}

    def scalar(x, gamma, beta):
        y, mean, variance = reference.forward(x, gamma, beta, axes, EPSILON)
        return (
            (y * a["dy"]).sum()
            + (mean * a["dmean"]).sum()
            + (variance * a["dvariance"]).sum()
        )

    run = compiled(lambda: gradients(loss(a, axes, ours), a), mode)
    measured = run()
    chain = reference.backward(
        a["x"], a["gamma"], axes, EPSILON, a["dy"], a["dmean"], a["dvariance"]
    )
    names = ("x", "gamma", "beta")
    for position, name in enumerate(names):

        def moved(values, name=name):
            return scalar(*({**near, name: values}[n] for n in names))

        differences = reference.central_differences(moved, near[name], 1e-5)
        assert relative_error(measured[position], differences) < 1e-6, name
        assert relative_error(measured[position], chain[position]) < 1e-10


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", [gradients, second_order])
def test_gradients_equal_autodiff_of_the_plain_forward(case, mode, order):
    shape, axes = CASES[case]
    a = inputs(shape, axes)
    measured = compiled(lambda: order(loss(a, axes, ours), a), mode)()
    expected = order(loss(a, axes, plain), a)
    for got, want in zip(measured, expected, strict=True):
        assert relative_error(got, want) < 1e-10


@pytest.mark.parametrize("gamma", [0.5, -3.0])
def test_the_norm_of_dx_is_that_of_santurkar_et_al(gamma):
    """At epsilon = 0, |dx|² = gamma²/var (|g|² - <1, g>²/m - <g, x_hat>²/m)."""
    rng = np.random.default_rng(0)
    x = rng.normal(5.0, 2.0, (40, 3))
    g = rng.normal(1.0, 1.0, (40, 3)) + 0.3 * x
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        y, *_ = keras_bn.ops.batch_norm(
            given, np.full(3, gamma), axes=0, epsilon=0.0
        )
    dx = np.asarray(tape.gradient(y, given, output_gradients=tf.constant(g)))
    x_hat = (x - x.mean(0)) / x.std(0)
    rest = (g**2).sum(0) - (g.sum(0) ** 2 + (g * x_hat).sum(0) ** 2) / len(x)
    expected = gamma**2 / x.var(0) * rest
    np.testing.assert_allclose((dx**2).sum(0), expected, rtol=1e-10)
    assert (expected < 0.9 * gamma**2 / x.var(0) * (g**2).sum(0)).all()


@pytest.mark.parametrize("axes", [0, np.int64(0), [np.int32(0)]])
def test_missing_gamma_and_beta_mean_one_and_zero(axes):
    a = inputs((6, 3), (0,))
    y, _, _ = keras_bn.ops.batch_norm(a["x"], axes=axes, epsilon=EPSILON)
    expected, _, _ = reference.forward(a["x"], 1.0, 0.0, (0,), EPSILON)
    assert relative_error(y, expected) < 1e-11


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(16384, 4), (64, 16, 16, 4)])
def test_float32_stays_exact_far_from_zero(mode, shape):
    axes = tuple(range(len(shape) - 1))
    a = inputs(shape, axes, mean=1e4, dtype=np.float32)
    run = compiled(
        lambda x: ours(x, a["gamma"], a["beta"], axes, EPSILON)[0], mode
    )
    measured = run(tf.constant(a["x"]))
    expected, _, _ = reference.forward(
        a["x"], a["gamma"], a["beta"], axes, EPSILON
    )
    assert np.abs(measured - expected).max() < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_inputs_have_float32_statistics(dtype):
    rng = np.random.default_rng(0)
    # 300^2 overflows float16: statistics in the input's own dtype would too.
    x = keras.ops.cast(rng.normal(50, 300, (64, 5)), dtype)
    y, mean, variance = keras_bn.ops.batch_norm(x, axes=0, epsilon=EPSILON)
    assert y.dtype == x.dtype
    assert mean.dtype == variance.dtype == tf.float32
    exact = np.asarray(keras.ops.cast(x, "float64"))
    np.testing.assert_allclose(variance, exact.var(0), rtol=1e-5)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-5, atol=1e-3)


def test_apply_statistics_is_the_affine_map_of_the_paper():
    shape, axes = CASES["rank4_channels_first"]
    a = inputs(shape, axes, mean=3)
    mean, variance = a["dmean"], a["dvariance"] ** 2
    measured = keras_bn.ops.apply_statistics(
        a["x"], mean, variance, a["gamma"], a["beta"], axes=axes, epsilon=0.1
    )
    expected = (
        a["x"] - reference.expand(mean, a["x"], axes)
    ) / reference.expand(np.sqrt(variance + 0.1), a["x"], axes)
    expected = expected * reference.expand(
        a["gamma"], a["x"], axes
    ) + reference.expand(a["beta"], a["x"], axes)
    assert relative_error(measured, expected) < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axes": 2}, r"\[-2, 1\] for an input of rank 2. Received: axes=2"),
        ({"axes": (0, -2)}, r"different axes. Received: axes=\(0, -2\)"),
        ({"axes": "0"}, r"an integer or several. Received: axes=0"),
        ({"axes": ()}, r"at least one axis. Received: \(\)"),
        ({"axes": 0, "epsilon": -1.0}, r"Received: epsilon=-1.0"),
        ({"axes": 0, "epsilon": float("nan")}, r"Received: epsilon=nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_bn.ops.batch_norm(np.ones((3, 2), np.float32), **arguments)


@pytest.mark.parametrize("shape", [(3,), (5, 1), (1,), ()])
@pytest.mark.parametrize(
    "wrong", ["gamma", "beta", "mean", "variance", "scale", "shift"]
)
def test_parameters_of_another_shape_are_refused(wrong, shape):
    (function, names), *_ = (
        (function, names)
        for function, names in [
            (keras_bn.ops.batch_norm, ["gamma", "beta"]),
            (keras_bn.ops.apply_statistics, ["mean", "variance"]),
            (keras_bn.ops.scale_and_shift, ["scale", "shift"]),
        ]
        if wrong in names
    )
    given = {name: tf.Variable(np.ones(5)) for name in names}
    x = np.ones((3, 4, 5))
    function(x, **given, axes=(0, 1))
    message = rf"{wrong} .*axes \(0, 1\), \(5,\)\. .*={re.escape(str(shape))}$"
    with pytest.raises(ValueError, match=message):
        function(x, **{**given, wrong: np.ones(shape)}, axes=(0, 1))


def test_parameters_may_be_of_a_size_that_is_not_known():
    function = tf.function(
        lambda x, gamma: keras_bn.ops.batch_norm(x, gamma, axes=0)[0],
        input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([None])],
    )
    x, gamma = np.float32([[1, 2], [3, 6]]), np.float32([2, 3])
    np.testing.assert_array_equal(
        function(x, gamma), keras_bn.ops.batch_norm(x, gamma, axes=0)[0]
    )


def test_a_ragged_tensor_is_refused():
    x = tf.RaggedTensor.from_row_lengths(np.ones((5, 3)), [2, 3])
    with pytest.raises(ValueError, match=r"dense.*shape \(2, None, 3\)$"):
        keras_bn.ops.batch_norm(x, axes=(0, 1))


def test_integers_are_refused():
    x = np.ones((3, 2), np.int32)
    with pytest.raises(ValueError, match="Received: dtype=int32"):
        keras_bn.ops.batch_norm(x, axes=0)
    with pytest.raises(ValueError, match="Received: dtype=int32"):
        keras_bn.ops.scale_and_shift(x, np.full(2, 0.5), None, axes=0)


@pytest.mark.parametrize("shape", [(4,), (3, 3), (1, 4, 3)])
def test_a_mask_that_does_not_broadcast_is_refused(shape):
    x = np.ones((4, 3))
    message = rf"mask must .*, \(4, 3\)\. .*{re.escape(str(shape))}$"
    with pytest.raises(ValueError, match=message):
        keras_bn.ops.batch_norm(x, axes=0, mask=np.ones(shape, bool))
    for fits in [(), (3,), (4, 1), (1, 3)]:
        keras_bn.ops.batch_norm(x, axes=0, mask=np.ones(fits, bool))


def test_a_mask_may_be_of_a_rank_that_is_not_known():
    x = np.arange(8.0).reshape(4, 2)
    function = tf.function(
        lambda mask: keras_bn.ops.batch_norm(x, axes=0, mask=mask)[1],
        input_signature=[tf.TensorSpec(None, tf.bool)],
    )
    mask = np.array([[True], [True], [False], [False]])
    np.testing.assert_allclose(function(mask), [1.0, 2.0])
