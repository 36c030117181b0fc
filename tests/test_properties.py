# SPDX-License-Identifier: Apache-2.0
"""Random layers on random inputs against the float64 oracle.

200 examples here, always the same; `make fuzz` draws 2,000 new ones.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, strategies as st

from keras_bn import BatchNormalization
from tests import layers
from tests.reference import layer as reference

#: Error allowed, relative to the largest value that enters.
TOLERANCE = {
    "float64": 1e-11,
    "float32": 1e-5,
    "float16": 2e-3,
    "bfloat16": 1.6e-2,
}


@dataclasses.dataclass(frozen=True)
class Example:
    """A layer and a call of it."""

    dtype: str
    shape: tuple[int, ...]
    axis: int | tuple[int, ...]
    mask_shape: tuple[int, ...] | None
    training: bool
    mean: float
    seed: int
    options: dict[str, Any]

    @property
    def axes(self):
        """The axes that the statistics are taken over."""
        given = (self.axis,) if isinstance(self.axis, int) else self.axis
        rank = len(self.shape)
        features = {axis % rank for axis in given}
        return tuple(axis for axis in range(rank) if axis not in features)

    def layer(self):
        layer = BatchNormalization(self.axis, dtype=self.dtype, **self.options)
        return layers.built(layer, self.shape, seed=self.seed)

    def inputs(self):
        """`x` and `dy`, already rounded to the dtype, and the mask."""
        x = layers.features(
            self.shape, axes=self.axes, mean=self.mean, seed=self.seed
        )
        dy = layers.cotangent(self.shape, seed=self.seed + 1)
        mask = None
        if self.mask_shape is not None:
            rng = np.random.default_rng(self.seed + 2)
            mask = rng.random(self.mask_shape) < rng.choice([0, 0.3, 0.7, 1])
        return *(rounded(a, self.dtype) for a in (x, dy)), mask


@st.composite
def examples(draw):
    rank = draw(st.integers(2, 5))
    sizes = [draw(st.integers(1, 9))]
    sizes += [draw(st.integers(1, 4)) for _ in range(rank - 1)]
    if draw(st.integers(0, 9)) == 9:
        sizes[draw(st.integers(0, rank - 1))] = 0
    signed = st.integers(-rank, rank - 1)
    several = st.lists(
        signed, min_size=1, max_size=rank - 1, unique_by=lambda a: a % rank
    )
    axis = draw(signed | several.map(tuple))
    features = {a % rank for a in ((axis,) if isinstance(axis, int) else axis)}
    narrow = draw(st.booleans())
    dtype = draw(
        st.sampled_from(
            ["float16", "bfloat16"] if narrow else ["float32", "float64"]
        )
    )
    size = None if 0 in features else draw(st.none() | st.integers(1, 5))
    masked = draw(st.booleans())
    return Example(
        dtype=dtype,
        shape=tuple(sizes),
        axis=axis,
        mask_shape=tuple(draw(st.sampled_from([1, n])) for n in sizes[:-1])
        if masked
        else None,
        training=draw(st.sampled_from([True, True, True, False])),
        mean=draw(st.sampled_from([0.0, 3.0] if narrow else [0.0, 3.0, 1e3])),
        seed=draw(st.integers(0, 2**16)),
        options={
            "epsilon": draw(
                st.sampled_from([1e-3, 0.1] if narrow else [1e-6, 1e-3, 0.1])
            ),
            "momentum": draw(st.sampled_from([0.0, 0.5, 0.99, 1.0])),
            "center": draw(st.booleans()),
            "scale": draw(st.booleans()),
            "moving_variance_estimator": draw(
                st.sampled_from(["biased", "unbiased"])
            ),
            "virtual_batch_size": size,
        },
    )


def rounded(array, dtype):
    narrow = keras.ops.cast(array, dtype)
    return keras.ops.convert_to_numpy(keras.ops.cast(narrow, "float64"))


def measure(example, layer, x, dy, mask):
    """Output and gradients, by name."""
    x = tf.cast(x, example.dtype)
    weights = {w.name: w for w in layer.trainable_variables}
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=example.training, mask=mask)
        loss = tf.reduce_sum(tf.cast(y, tf.float64) * dy)
    dx, *others = tape.gradient(loss, [x, *weights.values()])
    names = [f"d{name}" for name in weights]
    return {"y": y, "dx": dx, **dict(zip(names, others, strict=True))}


def expect(example, layer, x, dy, mask):
    """The oracle's step, and the moving averages after it."""
    weights = {w.name: np.float64(w.numpy()) for w in layer.weights}
    gamma, beta = weights.get("gamma", 1.0), weights.get("beta", 0.0)
    averages = weights["moving_mean"], weights["moving_variance"]
    options = {"axes": example.axes, "epsilon": layer.epsilon, "dy": dy}
    if not example.training:
        step = reference.inference_step(x, *averages, gamma, beta, **options)
        return step, averages
    step = reference.step(
        x,
        gamma,
        beta,
        mask=None if mask is None else mask[..., None],
        virtual_batch_size=layer.virtual_batch_size,
        unbiased=layer.moving_variance_estimator == "unbiased",
        **options,
    )
    p = layer.momentum
    return step, tuple(
        np.where(step.count >= least, p * old + (1 - p) * new, old)
        for least, old, new in zip(
            (1, 2), averages, (step.mean, step.variance), strict=True
        )
    )


def magnitudes(layer, step, dy):
    """Size of the terms of each sum; the sum may be much smaller."""

    def largest(array):
        return float(np.abs(array).max(initial=0.0))

    gamma = 1.0 if layer.gamma is None else layer.gamma.numpy()
    x_hat, total = 1.0 + largest(step.x_hat), 1.0 + np.abs(dy).sum()
    return {
        "y": 1.0 + largest(step.y),
        "dx": largest(gamma * step.inv_std) * largest(dy) * x_hat
        + largest(step.dx),
        "dgamma": total * x_hat,
        "dbeta": total,
        "moving_mean": 1.0 + largest(step.mean),
        "moving_variance": 1.0 + largest(step.variance),
    }


@pytest.mark.filterwarnings("ignore:.*single value per:UserWarning")
@given(examples())
def test_the_layer_equals_the_oracle(example):
    layer, (x, dy, mask) = example.layer(), example.inputs()
    step, averages = expect(example, layer, x, dy, mask)
    measured = measure(example, layer, x, dy, mask)
    assert measured["y"].dtype == measured["dx"].dtype == example.dtype
    expected = {name: getattr(step, name) for name in measured}
    for name, want in zip(
        ("moving_mean", "moving_variance"), averages, strict=True
    ):
        measured[name], expected[name] = getattr(layer, name), want
    sizes = magnitudes(layer, step, dy)
    for name, want in expected.items():
        got = np.asarray(keras.ops.cast(measured[name], "float64"))
        assert got.shape == want.shape, name
        tolerance = TOLERANCE[example.dtype]
        if name.startswith("moving"):
            # Never narrower than float32.
            tolerance = min(tolerance, TOLERANCE["float32"])
        error = np.abs(got - want).max(initial=0.0)
        assert error <= tolerance * sizes[name], (name, error)
