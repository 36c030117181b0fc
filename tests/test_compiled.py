# SPDX-License-Identifier: Apache-2.0
"""The code for large batches, with XLA and without, run on small data."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import operations
from keras_bn import BatchNormalization, ops
from keras_bn.backend import compiling, reductions
from tests import devices, layers
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
    limits = (
        reductions.unfolded(axes),
        reductions.FEW,
        reductions._FOLDED_ONCE,
    )
    for count in (2, *limits, *(limit + 1 for limit in limits), 300):
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


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2), (0, 2), (1, 3)])
@pytest.mark.parametrize("size", [0, 1, 17, 82, 83, 165, 166, 500])
def test_the_mean_of_a_sparse_sample(size, axes):
    shape = [2, 7, 3, 20]
    shape[axes[0]] = size
    x = layers.features(tuple(shape), axes=axes)
    places = {
        **{n: range(n) for n in (0, 1, 2, 3, 17, 82)},
        **{7: range(1, 7, 2), 20: range(3, 20, 6)},
        **{83: range(2, 83, 5), 165: range(2, 165, 5)},
        **{166: range(5, 166, 10), 500: range(15, 500, 30)},
    }
    taken = x
    for axis in axes:
        taken = taken.take(places[shape[axis]], axis)
    expected = taken.mean(axes) if size else np.zeros_like(taken.sum(axes))
    measured = reductions.mean_of_sparse_sample(
        tf.constant(x), axes, tf.float64
    )
    np.testing.assert_allclose(measured, expected, rtol=1e-13)


def test_edges_do_not_make_up_a_sparse_sample():
    """As a first token or a border may be unlike the rest."""
    x = np.zeros([4, 9, 12, 1])
    x[:, [0, -1]] = x[:, :, [0, -1]] = 1.0
    mean = reductions.mean_of_sparse_sample(
        tf.constant(x), (0, 1, 2), "float64"
    )
    assert mean.numpy() == [0.0]


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2), (1, 3)])
@pytest.mark.parametrize(
    ("size", "step"), [(0, 1), (1, 1), (7, 1), (8, 2), (15, 2), (500, 63)]
)
def test_the_mean_of_few(size, step, axes):
    shape = [2, 6, 3, 5]
    shape[axes[0]] = size
    x = layers.features(tuple(shape), axes=axes)
    taken = x.take(range(0, size, step), axes[0])
    expected = taken.mean(axes) if size else np.zeros_like(taken.sum(axes))
    count = tf.constant(np.prod([shape[axis] for axis in axes]), "float64")
    run = tf.function(
        lambda x: reductions.mean_of_few(x, axes, tf.float64, count),
        input_signature=[tf.TensorSpec([None] * 4, tf.float64)],
    )
    np.testing.assert_allclose(run(x), expected, rtol=1e-13)


@pytest.mark.parametrize("values", [[1e4] * 8, [0.0] + [1e4] * 7, range(8)])
def test_plain_operations_are_exact_whatever_the_order(values):
    """For an unknown number of values, sorted and in turns."""
    noise = layers.features((8, 500, 3), axes=(0, 1), dtype="float32")
    x = noise + np.asarray(values, "float32")[:, None, None]
    layer = layers.built(BatchNormalization(), (None, 3))
    with ops.without_compiling():
        run = tf.function(
            lambda x: layer(x, training=True), [tf.TensorSpec([None, 3])]
        )
        for rows in (x.reshape(-1, 3), x.transpose(1, 0, 2).reshape(-1, 3)):
            expected, *_ = reference.forward(
                rows, *layer.get_weights()[:2], (0,), layer.epsilon
            )
            assert layers.relative_error(run(rows), expected) < 1e-6


def both(x):
    return x, tf.square(x)


@pytest.mark.parametrize(
    ("rows", "slices"),
    [
        *[(128, []), (129, [4]), (256, [4])],
        *[(257, [8]), (1023, [8]), (1024, [16, 16])],
    ],
)
def test_rows_that_are_folded(rows, slices):
    run = tf.function(lambda x: reductions.folded(both, [x], (0,)))
    graph = run.get_concrete_function(tf.TensorSpec([rows, 2])).graph
    sums = [op for op in graph.get_operations() if op.type == "AddN"]
    assert [len(op.inputs) for op in sums] == slices


@pytest.mark.parametrize("mean", [1e4, 1e5])
def test_a_gradient_under_xla_of_an_unknown_number_of_examples(mean):
    """The mean that is subtracted must be the same number everywhere."""
    x = layers.features((1500, 200), mean=mean, dtype="float32")
    dy = layers.cotangent(x.shape).astype("float32")
    gamma, beta = parameters(x.shape, (0,), "float32")
    with ops.without_compiling():
        run = tf.function(
            lambda x, dy: call(x, gamma, beta, dy, axes=0, epsilon=1e-3),
            input_signature=[tf.TensorSpec([None, 200])] * 2,
            jit_compile=True,
        )
        dx = run(x, dy)[3]
    expected = reference.backward(
        x.astype("float64"), gamma, (0,), 1e-3, dy, 2.0, 3.0
    )
    assert layers.relative_error(dx, expected[0]) < 2e-6


@devices.on_cpu
def test_merging_axes_of_unknown_sizes_takes_few_operations():
    """Those sizes are left to be inferred: only the sample packs its steps."""
    layer = layers.built(BatchNormalization(), (None, None, None, 8))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 8])] * 2)
    def run(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x, output_gradients=dy)

    x = tf.ones([4, 5, 6, 8])
    found = operations.of_call(lambda: run(x, x))
    assert found["ReadVariableOp"] == 4
    assert found["Pack"] <= 1


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 64**2, 64**2 + 65])
@pytest.mark.parametrize("axes", [(0,), (0, 2), (1,)])
def test_sums_in_blocks(count, axes):
    shape = [3, 2, 4]
    shape[axes[0]] = count
    x = layers.features(tuple(shape))
    first, second = reductions.in_blocks(both, [tf.constant(x)], axes)
    np.testing.assert_allclose(first, x.sum(axes), rtol=1e-13)
    np.testing.assert_allclose(second, (x**2).sum(axes), rtol=1e-13)


def test_sums_in_blocks_are_exact_where_values_are_many():
    x = np.random.default_rng(0).random((2**20, 4), np.float32)
    run = tf.function(lambda x: reductions.in_blocks(both, [x], (0,)))
    exact = x.astype("float64").sum(0)
    assert layers.relative_error(run(x)[0], exact) < 5e-7


@devices.on_cpu
def test_plain_sums_of_a_cpu_are_less_exact():
    x = np.random.default_rng(0).random((2**20, 4), np.float32)
    exact = x.astype("float64").sum(0)
    assert layers.relative_error(tf.reduce_sum(x, 0), exact) > 2e-6
