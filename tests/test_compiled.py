# SPDX-License-Identifier: Apache-2.0
"""The code for large batches, with XLA and without, run on small data."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bn import BatchNormalization, ops
from keras_bn.backend import compiling
from tests import layers
from tests.reference import batch_norm as reference


@pytest.fixture(
    autouse=True,
    params=["as_large", "as_large_on_a_gpu", "as_large_of_unknown_size"],
)
def _large(request):
    request.getfixturevalue(request.param)


#: Shape and the axes that are summed over. Along the first axis alone, 129 to
#: 256 values are folded once by four, up to 1,023 by eight, and more twice.
LAYOUTS = {
    "dense": ((37, 3), (0,)),
    "dense_one_fold": ((131, 3), (0,)),
    "images_one_fold": ((3, 7, 8, 2), (0, 1, 2)),
    "channels_first_unfolded": ((5, 2, 6, 5), (0, 2, 3)),
    "dense_one_fold_by_eight": ((300, 2), (0,)),
    "dense_two_folds": ((1030, 2), (0,)),
    "images": ((3, 4, 5, 2), (0, 1, 2)),
    "channels_first": ((17, 2, 4, 9), (0, 2, 3)),
    "channels_first_few": ((2, 3, 2, 2), (0, 2, 3)),
    "features_first": ((3, 40), (1,)),
    "per_activation": ((20, 2, 3), (0,)),
    "in_between": ((2, 19, 3, 2), (1, 3)),
    "volumes": ((2, 3, 2, 4, 2), (0, 1, 2, 3)),
    "few": ((2, 3), (0,)),
}


def parameters(shape, axes, dtype):
    rng = np.random.default_rng(1)
    features = [n for a, n in enumerate(shape) if a not in axes]
    return [rng.uniform(0.5, 2, features).astype(dtype) for _ in range(2)]


def call(x, gamma, beta, dy, **options):
    """`y`, mean, variance, dx, dgamma, dbeta, statistics' cotangents too."""
    x, gamma, beta = map(tf.convert_to_tensor, (x, gamma, beta))
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y, mean, variance = ops.batch_norm(x, gamma, beta, **options)
        loss = tf.reduce_sum(y * dy)
        loss += tf.reduce_sum(2.0 * mean) + tf.reduce_sum(3.0 * variance)
    return y, mean, variance, *tape.gradient(loss, [x, gamma, beta])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_oracle_in_every_layout(layout):
    shape, axes = LAYOUTS[layout]
    x = layers.features(shape, axes=axes, mean=100.0)
    dy = layers.cotangent(shape)
    gamma, beta = parameters(shape, axes, "float64")
    measured = call(x, gamma, beta, dy, axes=axes, epsilon=1e-3)
    expected = [
        *reference.forward(x, gamma, beta, axes, 1e-3),
        *reference.backward(x, gamma, axes, 1e-3, dy, 2.0, 3.0),
    ]
    for got, want in zip(measured, expected, strict=True):
        assert layers.relative_error(got, want) < 1e-11


@pytest.mark.parametrize(
    "layout",
    ["dense", "dense_one_fold", "dense_one_fold_by_eight", "images", "few"],
)
@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6])
def test_float32_loses_no_digits_to_a_large_mean(layout, mean):
    shape, axes = LAYOUTS[layout]
    x = layers.features(shape, axes=axes, mean=mean, dtype="float32")
    wide, dy = x.astype("float64"), layers.cotangent(shape).astype("float32")
    gamma, beta = parameters(shape, axes, "float32")
    run = tf.function(call, jit_compile=True)
    y, _, _, dx, *_ = run(x, gamma, beta, dy, axes=axes, epsilon=1e-3)
    forward = reference.forward(wide, gamma, beta, axes, 1e-3)
    backward = reference.backward(wide, gamma, axes, 1e-3, dy, 2.0, 3.0)
    assert layers.relative_error(y, forward[0]) < 1e-6
    assert layers.relative_error(dx, backward[0]) < 2e-6


@pytest.mark.parametrize(
    "layout",
    [
        "dense_one_fold",
        "dense_one_fold_by_eight",
        "dense_two_folds",
        "channels_first",
    ],
)
def test_a_mask_leaves_values_out(layout):
    shape, axes = LAYOUTS[layout]
    x, dy = layers.features(shape, axes=axes), layers.cotangent(shape)
    gamma, beta = parameters(shape, axes, "float64")
    mask = (
        np.random.default_rng(0).random((shape[0], *[1] * 9))[
            (..., *[0] * (10 - len(shape)))
        ]
        < 0.6
    )
    options = {"axes": axes, "epsilon": 1e-3, "mask": mask}
    large = call(x, gamma, beta, dy, **options)
    with ops.without_compiling():
        small = call(x, gamma, beta, dy, **options)
    for got, want in zip(large, small, strict=True):
        assert layers.relative_error(got, want) < 1e-11


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_narrow_dtypes(dtype):
    shape, axes = LAYOUTS["dense_two_folds"]
    x = tf.cast(layers.features(shape), dtype)
    dy = tf.cast(layers.cotangent(shape), dtype)
    gamma, beta = parameters(shape, axes, "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, mean, variance = ops.batch_norm(x, gamma, beta, axes=0)
    dx = tape.gradient(y, x, output_gradients=dy)
    assert y.dtype == dx.dtype == x.dtype
    assert mean.dtype == variance.dtype == tf.float32
    wide = tf.cast(x, "float64").numpy(), tf.cast(dy, "float64").numpy()
    bound = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}[dtype]
    expected, *_ = reference.forward(wide[0], gamma, beta, axes, 1e-3)
    assert layers.relative_error(tf.cast(y, "float64"), expected) < bound
    expected, *_ = reference.backward(wide[0], gamma, axes, 1e-3, wide[1])
    assert layers.relative_error(tf.cast(dx, "float64"), expected) < bound


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_may_be_unknown_and_the_batch_empty(jit_compile):
    layer = layers.built(BatchNormalization(), (None, None, None, 3))
    before = layer.get_weights()
    run = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec([None, None, None, 3])],
        jit_compile=jit_compile,
    )
    for shape in ((0, 4, 4, 3), (2, 0, 3, 3)):
        assert run(tf.zeros(shape)).shape == shape
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    compiling.run.cache_clear()  # Else the trace above would serve.
    run_without_rows = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec([None, 0, 3, 3])],
        jit_compile=jit_compile,
    )
    assert run_without_rows(tf.zeros((2, 0, 3, 3))).shape == (2, 0, 3, 3)
    x = layers.features((5, 7, 3, 3), dtype="float32")
    expected, *_ = reference.forward(
        x.astype("float64"), *before[:2], (0, 1, 2), layer.epsilon
    )
    assert layers.relative_error(run(tf.constant(x)), expected) < 1e-5


def test_a_batch_of_unknown_size_may_have_any():
    axes, features = (0,), 5
    gamma, beta = parameters((0, features), axes, "float64")
    run = tf.function(
        lambda x, dy: call(x, gamma, beta, dy, axes=axes, epsilon=1e-3),
        input_signature=[tf.TensorSpec([None, features], tf.float64)] * 2,
    )
    for count in (2, 128, 129, 256, 257, 300, 1023, 1024):
        x = layers.features((count, features), mean=100.0)
        dy = layers.cotangent((count, features))
        expected = [
            *reference.forward(x, gamma, beta, axes, 1e-3),
            *reference.backward(x, gamma, axes, 1e-3, dy, 2.0, 3.0),
        ]
        measured = run(tf.constant(x), tf.constant(dy))
        for got, want in zip(measured, expected, strict=True):
            assert layers.relative_error(got, want) < 1e-11


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_one_bad_feature_leaves_the_others_as_they_are(bad):
    x = layers.features((40, 3), dtype="float32")
    layer, twin = (layers.built(BatchNormalization(), x.shape) for _ in "ab")
    dy = layers.cotangent(x.shape).astype("float32")
    expected = layers.call(twin, x, dy)
    before = layer.get_weights()
    x[5, 1] = bad
    measured = layers.call(layer, x, dy)
    for got, want in zip(measured, expected, strict=True):
        got, want = got.numpy()[..., [0, 2]], want.numpy()[..., [0, 2]]
        np.testing.assert_allclose(got, want, rtol=1e-5)
    for old, new in zip(before, layer.get_weights(), strict=True):
        assert old[1] == new[1]


def curvature(function, x, dx, *, inner, outer):
    """The Hessian of `sum(function)` times `dx`, by two modes."""

    def reverse(f, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = f(x)
        return tape.gradient(value, x)

    def forward(f, x):
        with tf.autodiff.ForwardAccumulator(x, dx) as accumulator:
            value = f(x)
        return accumulator.jvp(value)

    first = {"reverse": reverse, "forward": forward}[inner]
    if outer == "forward":
        return forward(lambda x: first(function, x), x)
    return reverse(lambda x: tf.reduce_sum(first(function, x) * dx), x)


def of_unknown_batch(function):
    """The function as a graph for batches of any size."""
    return tf.function(
        function, input_signature=[tf.TensorSpec([None, 2], tf.float64)]
    )


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, of_unknown_batch])
def test_second_order(wrap):
    x, dx = (tf.constant(layers.cotangent((20, 2), seed=s)) for s in (1, 2))

    def function(x):
        return tf.reduce_sum(ops.batch_norm(x, axes=0)[0] ** 3)

    def twice(x):
        return curvature(function, x, dx, inner="reverse", outer="reverse")

    gradient = reference.central_differences
    expected = gradient(
        lambda x: float(
            (reference.backward(
                x, np.ones(2), (0,), 1e-3,
                3 * reference.forward(
                    x, np.ones(2), np.zeros(2), (0,), 1e-3
                )[0] ** 2,
            )[0] * dx.numpy()).sum()
        ),
        x.numpy(),
        1e-5,
    )  # fmt: skip

    def over(x):
        return curvature(function, x, dx, inner="reverse", outer="forward")

    for run in (twice, over):
        assert layers.relative_error(wrap(run)(x), expected) < 1e-7


def test_what_a_batch_of_unknown_size_left_behind_is_differentiated():
    """Eager calls may take up its trace."""
    x = tf.constant(layers.cotangent((300, 2)))

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(ops.batch_norm(x, axes=0)[0] ** 3)
        return tape.gradient(loss, x)

    expected = gradient(x)
    compiling.run.cache_clear()
    of_unknown_batch(gradient)(x)
    np.testing.assert_allclose(gradient(x), expected, rtol=1e-12)


def test_within_control_flow_jacobian_and_vectorized_map():
    x = tf.constant(layers.cotangent((20, 2)))

    def loss(x):
        return tf.reduce_sum(ops.batch_norm(x, axes=0)[0] ** 3)

    def gradient(x, function=loss):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)

    def branching(x):
        return tf.cond(x[0, 0] < 1e9, lambda: loss(x), lambda: 0.0 * x[0, 0])

    def looping(x):
        return tf.while_loop(
            lambda i, _: i < 1,
            lambda i, x: (i + 1, ops.batch_norm(x, axes=0)[0]),
            [0, x],
        )[1]

    expected = gradient(x)
    for function in (branching, lambda x: tf.reduce_sum(looping(x) ** 3)):
        measured = tf.function(lambda x, f=function: gradient(x, f))(x)
        assert layers.relative_error(measured, expected) < 1e-12

    def by_jacobian(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.batch_norm(x, axes=0)[0]
        return tf.tensordot(3 * y**2, tape.jacobian(y, x), 2)

    for function in (by_jacobian, of_unknown_batch(by_jacobian)):
        assert layers.relative_error(function(x), expected) < 1e-11
    mapped = tf.vectorized_map(gradient, tf.stack([x, 2 * x]))
    assert layers.relative_error(mapped[0], expected) < 1e-11


def test_layers_of_one_shape_share_what_is_compiled():
    compiling.run.cache_clear()
    x = tf.constant(layers.features((20, 4), dtype="float32"))
    for _ in range(3):
        layers.built(BatchNormalization(), (None, 4))(x, training=True)
    assert compiling.run.cache_info().currsize == 1
