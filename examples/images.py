# SPDX-License-Identifier: Apache-2.0
"""Grey images of digits for the examples, and a network for them."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_bn

layers = keras.layers


class Images(NamedTuple):
    """Images `[N, H, W, 1]` in [0, 1], float32, and labels `[N]`."""

    x_train: Any
    y_train: Any
    x_test: Any
    y_test: Any


def load(data_dir: str | None) -> Images:
    """MNIST from `data_dir/mnist.npz`, or scikit-learn's digits."""
    if data_dir is None:
        from sklearn import datasets, model_selection

        bunch = datasets.load_digits()
        x_train, x_test, y_train, y_test = model_selection.train_test_split(
            bunch.images / 16, bunch.target, test_size=360, random_state=0
        )
    else:
        with np.load(Path(data_dir) / "mnist.npz", allow_pickle=False) as file:
            x_train, x_test = file["x_train"] / 255, file["x_test"] / 255
            y_train, y_test = file["y_train"], file["y_test"]

    def images(x: Any) -> Any:
        return x[..., np.newaxis].astype(np.float32)

    return Images(images(x_train), y_train, images(x_test), y_test)


def network(image_shape: tuple[int, ...]) -> keras.Model:
    """Convolutions of three kinds, each `ReLU(BN(W x))`; returns logits."""
    image = keras.Input(image_shape, name="image")
    x = _normalized(layers.Conv2D(32, 3, **_OPTIONS), "conv1")(image)
    left = _normalized(layers.Conv2D(32, 1, **_OPTIONS), "left")(x)
    right = _normalized(layers.SeparableConv2D(32, 3, **_OPTIONS), "right")(x)
    x = layers.Concatenate(name="both")([left, right])
    x = layers.MaxPooling2D(name="pool")(x)
    x = _normalized(layers.DepthwiseConv2D(3, **_OPTIONS), "depthwise")(x)
    x = _normalized(layers.Conv2D(64, 3, **_OPTIONS), "conv2")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="digits")


_OPTIONS: dict[str, Any] = {"padding": "same", "use_bias": False}


def _normalized(linear: Any, name: str) -> Any:
    norm = keras_bn.BatchNormalization(name=f"{name}_bn")
    relu = layers.ReLU(name=f"{name}_relu")
    return lambda x: relu(norm(linear(x)))
