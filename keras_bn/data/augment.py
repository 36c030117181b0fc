# SPDX-License-Identifier: Apache-2.0
"""Crops, mirrors and colours of encoded images, seeded image by image.

Everything runs inside tf.data; a seed is a pair of integers, and the same
seed gives the same picture.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any  # tf.Tensor is untyped for mypy.

DISTORTIONS = ("none", "weak", "strong")
#: Number of views of an image that an evaluation may take.
CROPS = (1, 10, 144)
#: Sides that an image's short side is scaled to, over that of a crop
#: (Szegedy et al. 2014: 256, 288, 320 and 352 over 224).
SCALES = (256 / 224, 288 / 224, 320 / 224, 352 / 224)
#: Share of the area and aspect ratio of a training crop, likewise. TensorFlow
#: draws heights evenly, so that small areas come more often than large ones.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
#: What a JPEG decoder can shrink an image by, for less work than decoding it.
RATIOS = (1, 2, 4, 8)
#: Pixels around small images that they may be moved by.
PADDING = 4


def training_view(
    data: Tensor, seed: Tensor, *, size: int, distortion: str, padded: bool
) -> Tensor:
    """A random view of an image.

    Args:
        data: Encoded image, a scalar string.
        seed: `[2]`, int64.
        size: Height and width of the view.
        distortion: Of the colours, one of `DISTORTIONS`.
        padded: Moves the image by up to `PADDING` pixels, as is usual for
            tiny images, instead of cutting out a part of any size.

    Returns:
        `[size, size, 3]`, float32 in [-1, 1].
    """
    seeds = tf.unstack(tf.random.split(seed, 6), num=6)
    if padded:
        image = _moved(decoded(data), size, seeds[0])
    else:
        image = _resized(_random_part(data, seeds[0], size), size)
    image = tf.image.stateless_random_flip_left_right(image, seeds[1])
    if distortion != "none":
        image = _distorted(image, seeds[2:], strong=distortion == "strong")
    return _signed(image)


def test_view(data: Tensor, *, size: int, padded: bool) -> Tensor:
    """The middle of an image, `[size, size, 3]`, float32 in [-1, 1]."""
    if padded:
        return _signed(_resized(decoded(data), size))
    side = round(SCALES[0] * size)
    image = _short_side(decoded(data, side=side), side)
    return _signed(_middle(image, size))


def test_views(data: Tensor, *, size: int, crops: int) -> Tensor:
    """Several views of an image, `[crops, size, size, 3]`.

    10: corners and middle at the smallest scale, and their mirror images.
    144: at four scales the left, middle and right square (or the upper, middle
    and lower one); of each the corners, the middle, and the whole; mirrored.
    """
    sides = [round(scale * size) for scale in SCALES]
    if crops == 10:
        image = decoded(data, side=sides[0])
        views = _corners(_short_side(image, sides[0]), size)
    else:
        image = decoded(data, side=sides[-1])
        views = []
        for side in sides:
            for square in _squares(_short_side(image, side), side):
                views += [*_corners(square, size), _resized(square, size)]
    stacked = tf.stack(views)
    mirrored = tf.image.flip_left_right(stacked)
    return _signed(tf.concat([stacked, mirrored], 0))


def decoded(data: Tensor, *, side: int | None = None) -> Tensor:
    """`[H, W, 3]`, uint8; grey and CMYK images become RGB.

    Args:
        data: Encoded image, a scalar string.
        side: What the short side must at least be; a JPEG is decoded no larger
            than needed. `None`: at its own size.
    """

    def of_jpeg() -> Tensor:
        if side is None:
            return _decode_jpeg(data, 1)
        shape = tf.io.extract_jpeg_shape(data)[:2]
        return _shrunk(shape, side, lambda ratio: _decode_jpeg(data, ratio))

    image = tf.cond(
        tf.io.is_jpeg(data), of_jpeg, lambda: tf.io.decode_png(data, channels=3)
    )
    return tf.ensure_shape(image, (None, None, 3))


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


def _random_part(data: Tensor, seed: Tensor, size: int) -> Tensor:
    """A part of random size and shape; no more of a JPEG is decoded.

    Nor any larger than `size` asks for.
    """

    def window(shape: Tensor) -> Tensor:
        whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            whole,
            seed,
            aspect_ratio_range=ASPECT,
            area_range=AREA,
            max_attempts=10,
            min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], 0)

    def of_jpeg() -> Tensor:
        part = window(tf.io.extract_jpeg_shape(data))
        return _shrunk(
            part[2:],
            size,
            lambda ratio: tf.io.decode_and_crop_jpeg(
                data,
                part // ratio,
                channels=3,
                ratio=ratio,
                try_recover_truncated=True,
            ),
        )

    def of_png() -> Tensor:
        image = tf.io.decode_png(data, channels=3)
        part = window(tf.shape(image))
        return tf.image.crop_to_bounding_box(image, *tf.unstack(part, num=4))

    part = tf.cond(tf.io.is_jpeg(data), of_jpeg, of_png)
    return tf.ensure_shape(part, (None, None, 3))


def _moved(image: Tensor, size: int, seed: Tensor) -> Tensor:
    image = _resized(image, size)
    around = [[PADDING, PADDING], [PADDING, PADDING], [0, 0]]
    padded = tf.pad(image, around, "REFLECT")
    return tf.image.stateless_random_crop(padded, (size, size, 3), seed)


def _distorted(image: Tensor, seeds: list[Tensor], *, strong: bool) -> Tensor:
    """Colours in [0, 1] of other brightness, saturation, hue, contrast."""
    image = tf.image.stateless_random_brightness(image, 32 / 255, seeds[0])
    image = tf.image.stateless_random_saturation(image, 0.5, 1.5, seeds[1])
    if strong:
        image = tf.image.stateless_random_hue(image, 0.2, seeds[2])
        image = tf.image.stateless_random_contrast(image, 0.5, 1.5, seeds[3])
    return tf.clip_by_value(image, 0.0, 1.0)


def _resized(image: Tensor, size: int) -> Tensor:
    """`[size, size, 3]`, float32 in [0, 1]."""
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
