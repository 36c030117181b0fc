# SPDX-License-Identifier: Apache-2.0
"""The views of a test image: its middle, 10 crops, 144 crops."""

from typing import Any

import tensorflow as tf

from keras_bn.data.decoding import decoded

Tensor = Any  # tf.Tensor is untyped for mypy.

#: Number of views of an image that an evaluation may take.
CROPS = (1, 10, 144)

#: Lengths that an image's short side is scaled to, relative to a crop's side
#: (Szegedy et al. 2014: 256, 288, 320 and 352 over 224).
SCALES = (256 / 224, 288 / 224, 320 / 224, 352 / 224)


def require_crops(crops: int) -> None:
    """Raises `ValueError` unless it is one of `CROPS`."""
    if crops not in CROPS:
        raise ValueError(
            f"crops must be one of {', '.join(map(str, CROPS))}. "
            f"Received: crops={crops}"
        )


def test_view(image: Tensor, *, size: int, padded: bool) -> Tensor:
    """The middle of an image, `[size, size, 3]`, float32 in [-1, 1].

    Args:
        image: Encoded, a scalar string, or pixels `[H, W, 3]`, uint8.
        size: Height and width of the view.
        padded: Whether to take the whole image, resized, as is usual for tiny
            images.
    """
    if padded:
        return _signed(_whole(decoded(image), size))
    side = round(SCALES[0] * size)
    image = _short_side(decoded(image, side=side), side)
    return _signed(_middle(image, size))


def test_views(image: Tensor, *, size: int, crops: int) -> Tensor:
    """Several views of an image, `[crops, size, size, 3]`.

    10: corners and middle at the smallest scale, and their mirror images.
    144: at four scales, the left, middle and right squares (or the upper,
    middle and lower ones); the corners, the middle and the whole of each
    square; and all their mirror images.
    """
    sides = [round(scale * size) for scale in SCALES]
    if crops == 10:
        image = decoded(image, side=sides[0])
        views = _corners(_short_side(image, sides[0]), size)
    else:
        image = decoded(image, side=sides[-1])
        views = []
        for side in sides:
            for square in _squares(_short_side(image, side), side):
                views += [*_corners(square, size), _whole(square, size)]
    stacked = tf.stack(views)
    mirrored = tf.image.flip_left_right(stacked)
    return _signed(tf.concat([stacked, mirrored], 0))


def _whole(image: Tensor, size: int) -> Tensor:
    """The whole image, `[size, size, 3]`, float32 in [0, 1]."""
    if image.dtype != tf.float32:
        image = tf.cast(image, tf.float32) / 255.0
    resized = tf.image.resize(image, (size, size))
    return tf.ensure_shape(resized, (size, size, 3))


def _short_side(image: Tensor, side: int) -> Tensor:
    """The whole image, its short side as given; float32 in [0, 1]."""
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    scaled = tf.round(shape * (side / tf.reduce_min(shape)))
    image = tf.cast(image, tf.float32) / 255.0
    return tf.image.resize(image, tf.cast(scaled, tf.int32))


def _middle(image: Tensor, size: int) -> Tensor:
    free = tf.shape(image)[:2] - size
    return tf.slice(image, [free[0] // 2, free[1] // 2, 0], [size, size, 3])


def _corners(image: Tensor, size: int) -> list[Tensor]:
    free = tf.shape(image)[:2] - size
    corners = [
        tf.slice(image, [top, left, 0], [size, size, 3])
        for top in (0, free[0])
        for left in (0, free[1])
    ]
    return [*corners, _middle(image, size)]


def _squares(image: Tensor, side: int) -> list[Tensor]:
    """The first, middle and last square along the long side."""
    free = tf.shape(image)[:2] - side
    starts = ([0, 0], [free[0] // 2, free[1] // 2], [free[0], free[1]])
    return [tf.slice(image, [*start, 0], [side, side, 3]) for start in starts]


def _signed(image: Tensor) -> Tensor:
    return image * 2.0 - 1.0
