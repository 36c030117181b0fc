# SPDX-License-Identifier: Apache-2.0
"""Grey images of digits for the examples, and a network for them."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_bn
from keras_bn.data import files

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
        found = files.arrays(Path(data_dir) / "mnist.npz")
        x_train, x_test = found["x_train"] / 255, found["x_test"] / 255
        y_train, y_test = found["y_train"], found["y_test"]

    def images(x: Any) -> Any:
        return x[..., np.newaxis].astype(np.float32)

    return Images(images(x_train), y_train, images(x_test), y_test)


def network(image_shape: tuple[int, ...]) -> keras.Model:
    """Convolutions of several kinds, `ReLU(BN(W x))`; returns logits."""
    image = keras.Input(image_shape, name="image")
    options: dict[str, Any] = {"padding": "same", "use_bias": False}
    x = layers.Conv2D(32, 3, name="conv1", **options)(image)
    x = _activated(x, "conv1")
    left = layers.Conv2D(32, 1, name="left", **options)(x)
    right = layers.SeparableConv2D(32, 3, name="right", **options)(x)
    x = layers.Concatenate(name="both")([left, right])
    x = layers.MaxPooling2D(name="pool")(_activated(x, "both"))
    x = layers.DepthwiseConv2D(3, name="depthwise", **options)(x)
    x = _activated(x, "depthwise")
    x = layers.Conv2D(64, 3, name="conv2", **options)(x)
    x = layers.GlobalAveragePooling2D(name="mean")(_activated(x, "conv2"))
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="digits")


def _activated(x: Any, name: str) -> Any:
    x = keras_bn.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
