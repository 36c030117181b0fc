# SPDX-License-Identifier: Apache-2.0
"""Decodes images, no more of each and no larger than needed."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any  # tf.Tensor is untyped for mypy.

#: Factors by which a JPEG decoder can shrink an image to save work.
RATIOS = (1, 2, 4, 8)


def decoded(image: Tensor, *, side: int | None = None) -> Tensor:
    """`[H, W, 3]`, uint8; grey and CMYK images become RGB.

    Args:
        image: Encoded, a scalar string; pixels are returned as they are.
        side: Least length of the short side; a JPEG is decoded no larger than
            that requires. `None`: full size.
    """
    if image.dtype != tf.string:
        return image

    def of_jpeg() -> Tensor:
        if side is None:
            return _decode_jpeg(image, 1)
        shape = tf.io.extract_jpeg_shape(image)[:2]
        return _shrunk(shape, side, lambda ratio: _decode_jpeg(image, ratio))

    pixels = tf.cond(
        tf.io.is_jpeg(image),
        of_jpeg,
        lambda: tf.io.decode_png(image, channels=3),
    )
    return tf.ensure_shape(pixels, (None, None, 3))


def decoded_part(
    image: Tensor, window: Callable[[Tensor], Tensor], *, side: int
) -> Tensor:
    """A part of an image, `[h, w, 3]`, uint8; no more of a JPEG is decoded.

    Args:
        image: Encoded, a scalar string.
        window: From the image's `[height, width]` to the part's
            `[top, left, height, width]`, int32.
        side: Least length of the part's short side, if the part is shrunk.
    """

    def of_jpeg() -> Tensor:
        part = window(tf.io.extract_jpeg_shape(image)[:2])
        return _shrunk(
            part[2:],
            side,
            lambda ratio: tf.io.decode_and_crop_jpeg(
                image,
                part // ratio,
                channels=3,
                ratio=ratio,
                try_recover_truncated=True,
            ),
        )

    def of_png() -> Tensor:
        pixels = tf.io.decode_png(image, channels=3)
        return cut(pixels, window(tf.shape(pixels)[:2]))

    part = tf.cond(tf.io.is_jpeg(image), of_jpeg, of_png)
    return tf.ensure_shape(part, (None, None, 3))


def cut(pixels: Tensor, window: Tensor) -> Tensor:
    """The part of `pixels` that a `[top, left, height, width]` names."""
    top, left, height, width = tf.unstack(window)
    return tf.slice(pixels, [top, left, 0], [height, width, 3])


def _decode_jpeg(data: Tensor, ratio: int) -> Tensor:
    return tf.io.decode_jpeg(
        data, channels=3, ratio=ratio, try_recover_truncated=True
    )


def _shrunk(
    extent: Tensor, side: int, decode: Callable[[int], Tensor]
) -> Tensor:
    """Decodes by the largest ratio that leaves `extent` at least `side`."""
    enough = tf.reduce_min(extent) // tf.constant(RATIOS[1:]) >= side
    branches = [functools.partial(decode, ratio) for ratio in RATIOS]
    return tf.switch_case(
        tf.math.count_nonzero(enough, dtype=tf.int32), branches
    )
