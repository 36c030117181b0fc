# SPDX-License-Identifier: Apache-2.0
"""Random crops, mirroring and colour changes of a step's training images.

Everything runs inside tf.data, a batch at a time: crops are cut out and resized
one by one; the rest is one compiled pass over the batch. The numbers in [0, 1)
drawn for the step, a row of `DRAWS` per image, determine all that is done.
"""

from typing import Any

import tensorflow as tf

from keras_bn.data.decoding import cut, decoded, decoded_part

Tensor = Any  # tf.Tensor is untyped for mypy.

DISTORTIONS = ("none", "weak", "strong")
#: Share of the area and aspect ratio of a training crop (Szegedy et al. 2014).
#: Heights are drawn evenly, so that small areas come more often than large
#: ones, as TensorFlow's `sample_distorted_bounding_box` draws them.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
#: Pixels by which small images may be moved.
PADDING = 4
#: Largest changes: of brightness, where white is 1; of hue, in full turns.
BRIGHTNESS, HUE = 32 / 255, 0.2
#: Factors of saturation and contrast.
SATURATION = CONTRAST = (0.5, 1.5)
#: Numbers drawn for an image: four for its place, one for its mirror image,
#: and for brightness, saturation, hue and contrast.
DRAWS = 9


def training_views(
    images: Tensor, draws: Tensor, *, size: int, distortion: str, padded: bool
) -> Tensor:
    """A random view of each image.

    Args:
        images: Encoded, `[N]` strings, or pixels `[N, H, W, 3]`, uint8.
        draws: `[N, DRAWS]`, float32 in [0, 1).
        size: Height and width of a view.
        distortion: Of the colours, one of `DISTORTIONS`.
        padded: Whether to move an image by up to `PADDING` pixels, as is usual
            for tiny images, instead of cutting out a random part.

    Returns:
        `[N, size, size, 3]`, float32 in [-1, 1].
    """
    place = draws[:, :4]
    if not padded and images.dtype != tf.string:
        place = window(tf.shape(images)[1:3], place)

    def view(image: Tensor, place: Tensor) -> Tensor:
        if padded:
            return _moved(_resized(decoded(image), size), place)
        if image.dtype != tf.string:
            return _resized(cut(image, place), size)
        part = decoded_part(
            image, lambda shape: window(shape, place), side=size
        )
        return _resized(part, size)

    views = tf.map_fn(
        lambda of_image: view(*of_image),
        (images, place),
        fn_output_signature=tf.TensorSpec((size, size, 3)),
    )
    return _finished(views, draws[:, 4:], distortion)


def window(shape: Tensor, place: Tensor) -> Tensor:
    """A part of random size and shape.

    Args:
        shape: Height and width of the image, `[2]`, int32.
        place: Four numbers in [0, 1), `[..., 4]`.

    Returns:
        `[..., 4]`, int32: top, left, height, width.
    """
    high, wide = tf.unstack(tf.cast(shape, tf.float32))
    for_aspect, for_height, for_top, for_left = tf.unstack(place, axis=-1)
    aspect = _between(ASPECT, for_aspect)
    smallest, largest = (tf.sqrt(a * high * wide / aspect) for a in AREA)
    largest = tf.minimum(largest, tf.minimum(high, wide / aspect))
    height = _between((tf.minimum(smallest, largest), largest), for_height)
    width = tf.clip_by_value(tf.round(height * aspect), 1.0, wide)
    height = tf.clip_by_value(tf.round(height), 1.0, high)
    top = tf.floor(for_top * (high - height + 1.0))
    left = tf.floor(for_left * (wide - width + 1.0))
    return tf.cast(tf.stack([top, left, height, width], -1), tf.int32)


def _moved(image: Tensor, place: Tensor) -> Tensor:
    """The image moved along both axes, its border filled by reflection."""
    last = image.shape[0] - 1
    for axis in (0, 1):
        by = tf.cast(place[axis] * (2 * PADDING + 1), tf.int32) - PADDING
        source = last - tf.abs(last - tf.abs(tf.range(last + 1) + by))
        image = tf.gather(image, source, axis=axis)
    return image


def _resized(image: Tensor, size: int) -> Tensor:
    """`[size, size, 3]`, float32 in [0, 255]."""
    # Resizing is faster from float32, even with the cast.
    resized = tf.image.resize(tf.cast(image, tf.float32), (size, size))
    return tf.ensure_shape(resized, (size, size, 3))


@tf.function(jit_compile=True, autograph=False)
def _finished(views: Tensor, draws: Tensor, distortion: str) -> Tensor:
    """Mirrors views at random, distorts their colours, scales to [-1, 1]."""
    # A dimension for each of height and width: [N, 1, 1].
    mirror, *colours = (d[:, None, None] for d in tf.unstack(draws, axis=-1))
    views = views / 255.0
    views = tf.where(mirror[..., None] < 0.5, views, tf.reverse(views, [2]))
    if distortion != "none":
        views = _distorted(views, colours, strong=distortion == "strong")
    return views * 2.0 - 1.0


def _distorted(views: Tensor, draws: list[Tensor], *, strong: bool) -> Tensor:
    """Changes brightness, saturation, hue, contrast of colours in [0, 1].

    The same as `tf.image`'s functions of these names, one after the other, and
    a clip. With V the largest of red, green and blue and C the largest minus
    the smallest, saturation is C / V; a factor changes C and leaves V, and each
    channel keeps its share of C below V.
    """
    brightness, saturation, hue, contrast = draws
    views += _between((-BRIGHTNESS, BRIGHTNESS), brightness)[..., None]
    channels = tf.unstack(views, axis=-1)
    red, green, blue = channels
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    # A saturation is at most 1; what is black has none.
    most = tf.math.divide_no_nan(value, chroma)
    factor = tf.minimum(_between(SATURATION, saturation), most)
    factor = tf.maximum(factor, 0.0)
    if strong:
        turned = 6.0 * _between((-HUE, HUE), hue)
        shares = _shares_below(_hue(channels, value, chroma) + turned)
        below = tf.stack([chroma * share for share in shares], -1)
    else:
        below = value[..., None] - views
    views = value[..., None] - factor[..., None] * below
    if strong:
        mean = tf.reduce_mean(views, (1, 2), keepdims=True)
        factor = _between(CONTRAST, contrast)[..., None]
        views = (views - mean) * factor + mean
    return tf.clip_by_value(views, 0.0, 1.0)


def _hue(channels: list[Tensor], value: Tensor, chroma: Tensor) -> Tensor:
    """Position on a colour circle of length 6: red 0, green 2, blue 4."""
    red, green, blue = channels

    def between(one: Tensor, other: Tensor) -> Tensor:
        return tf.math.divide_no_nan(one - other, chroma)

    return tf.where(
        value == red,
        between(green, blue),
        tf.where(
            value == green, between(blue, red) + 2.0, between(red, green) + 4.0
        ),
    )


def _shares_below(hue: Tensor) -> list[Tensor]:
    """(V - channel) / C of red, green and blue at a hue."""
    shares = []
    for offset in (5.0, 3.0, 1.0):
        place = hue + offset
        place -= 6.0 * tf.floor(place / 6.0)
        shares.append(
            tf.clip_by_value(tf.minimum(place, 4.0 - place), 0.0, 1.0)
        )
    return shares


def _between(ends: tuple[Any, Any], share: Tensor) -> Tensor:
    low, high = ends
    return low + (high - low) * share
