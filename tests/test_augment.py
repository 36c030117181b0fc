# SPDX-License-Identifier: Apache-2.0
import colorsys

import numpy as np
import pytest
import tensorflow as tf

from keras_bn.data import augment, decoding, views
from tests import pictures


def draws(numbers):
    """Drawn for each number by itself."""
    rows = [
        tf.random.stateless_uniform((augment.DRAWS,), (0, number))
        for number in numbers
    ]
    return tf.stack(rows)


def training_views(image, numbers, *, size=8, distortion="none", padded=False):
    """A view of one image for each number."""
    return augment.training_views(
        tf.stack([image] * len(numbers)),
        draws(numbers),
        size=size,
        distortion=distortion,
        padded=padded,
    ).numpy()


def ramp(height=60, width=80):
    """A PNG whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)
    return tf.io.encode_png(pixels).numpy()


def as_bytes(signed):
    return (signed + 1) * 127.5


@pytest.mark.parametrize("distortion", augment.DISTORTIONS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("encoded", [pictures.jpeg(), pictures.png()])
def test_a_seed_gives_one_picture_in_range(encoded, distortion, padded):
    options = {"distortion": distortion, "padded": padded}
    found = training_views(encoded, range(8), **options)
    assert found.shape == (8, 8, 8, 3)
    assert found.dtype == np.float32
    assert -1 <= found.min() <= found.max() <= 1
    np.testing.assert_array_equal(
        found[3:5], training_views(encoded, [3, 4], **options)
    )
    assert len({image.tobytes() for image in found}) > 4


@pytest.mark.parametrize("distortion", augment.DISTORTIONS)
@pytest.mark.parametrize("padded", [False, True])
def test_views_of_pixels_are_those_of_the_encoded_image(distortion, padded):
    options = {"distortion": distortion, "padded": padded, "size": 12}
    pixels = pictures.pixels(5, 40, 30)
    encoded = tf.io.encode_png(pixels).numpy()
    np.testing.assert_array_equal(
        training_views(pixels, range(20), **options),
        training_views(encoded, range(20), **options),
    )


def test_crops_have_the_area_and_shape_of_the_paper():
    """The ramp's ends, at the centres of the outermost pixels, give both."""
    areas, aspects = [], []
    for image in as_bytes(training_views(ramp(), range(400), size=4)):
        # Of 4 pixels over w columns, the outer centres lie 3/4 w apart.
        width = abs(image[0, -1, 0] - image[0, 0, 0]) * 4 / 3
        height = (image[-1, 0, 1] - image[0, 0, 1]) * 4 / 3
        areas.append(width * height / (60 * 80))
        aspects.append(width / height)
    assert 0.06 < min(areas) < 0.12
    assert 0.85 < max(areas) < 1.05
    assert 0.65 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.45


def test_half_of_the_views_are_mirrored():
    mirrored = [
        image[0, 0, 0] > image[0, -1, 0]
        for image in training_views(ramp(), range(300))
    ]
    assert 0.4 < np.mean(mirrored) < 0.6


def test_tiny_images_are_moved_by_up_to_four_pixels():
    """Every view is one of 9 x 9 windows of the padded image or its mirror."""
    whole = np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8)
    encoded = tf.io.encode_png(whole).numpy()
    around = np.pad(whole, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {
        around[top : top + 16, left : left + 16, :][:, ::step].tobytes(): (
            top,
            left,
            step,
        )
        for top in range(9)
        for left in range(9)
        for step in (1, -1)
    }
    seen = set()
    found = training_views(encoded, range(300), size=16, padded=True)
    for image in np.round(as_bytes(found)):
        seen.add(windows[image.astype(np.uint8).tobytes()])
    for axis, values in enumerate([range(9), range(9), (1, -1)]):
        assert {place[axis] for place in seen} == set(values)


def flat(red, green, blue):
    pixels = np.full((8, 8, 3), (red, green, blue), np.uint8)
    return tf.io.encode_png(pixels).numpy()


@pytest.mark.parametrize(
    ("distortion", "hues"), [("none", 0), ("weak", 0), ("strong", 0.2)]
)
def test_distortions_change_what_they_say(distortion, hues):
    """Of one colour: hue only if strong, saturation and value if at all."""
    views_found = training_views(
        flat(90, 120, 150), range(200), distortion=distortion
    )
    found = np.array(
        [colorsys.rgb_to_hsv(*(v[0, 0] + 1) / 2) for v in views_found]
    )
    hue, saturation, value = found.T
    original = colorsys.rgb_to_hsv(90 / 255, 120 / 255, 150 / 255)
    spread = np.abs(hue - original[0])
    assert spread.max() <= hues + 1e-3
    assert spread.max() >= hues * 0.9
    changed = distortion != "none"
    assert (np.ptp(saturation) > 0.2) == changed
    assert (np.ptp(value) > 0.2) == changed
    if distortion == "weak":
        # Brightness moves the largest channel by at most 32 of 255.
        assert np.abs(value - original[2]).max() <= 32 / 255 + 1e-3


@pytest.mark.parametrize("distortion", ["weak", "strong"])
def test_distortions_are_the_functions_of_tensorflow(distortion):
    """Of any colour, black, white, grey and saturated ones too."""
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (16, 16, 3), np.uint8)
    colours[:2] = rng.choice([0, 128, 255], (2, 16, 3))
    numbers = range(40)
    options = {"size": 16, "padded": True}
    found = training_views(colours, numbers, distortion=distortion, **options)
    plain = training_views(colours, numbers, **options)
    for image, expected, row in zip(
        found, (plain + 1) / 2, draws(numbers).numpy(), strict=True
    ):
        brightness, saturation, hue, contrast = row[5:] - 0.5
        expected = tf.image.adjust_brightness(
            expected, 2 * brightness * augment.BRIGHTNESS
        )
        expected = tf.image.adjust_saturation(expected, 1 + saturation)
        if distortion == "strong":
            expected = tf.image.adjust_hue(expected, 2 * hue * augment.HUE)
            with tf.device("CPU"):  # A GPU's has no fixed order of sums.
                expected = tf.image.adjust_contrast(expected, 1 + contrast)
        expected = np.clip(expected, 0, 1) * 2 - 1
        np.testing.assert_allclose(image, expected, atol=2e-5)


def test_strong_distortion_stretches_contrast():
    def spreads(distortion):
        pixels = np.repeat(np.uint8([[[100] * 3, [140] * 3]]), 2, 0)
        found = training_views(
            pixels, range(60), distortion=distortion, padded=True
        )
        return np.ptp(found, axis=(1, 2, 3))

    # Of grey pictures, saturation and hue change nothing.
    weak, strong = spreads("weak"), spreads("strong")
    assert np.ptp(weak) < 0.15
    assert max(strong) > 1.2 * max(weak)
    assert min(strong) < 0.8 * min(weak)


def bilinear(image, height, width):
    """NumPy twin of `tf.image.resize`: half-pixel centres, no antialias."""

    def along(values, size):
        old = len(values)
        at = (np.arange(size) + 0.5) * old / size - 0.5
        low = np.floor(at).astype(int)
        part = (at - low).reshape(-1, 1, 1)
        lower, upper = (np.clip(low + i, 0, old - 1) for i in (0, 1))
        return values[lower] * (1 - part) + values[upper] * part

    turned = along(image, height).swapaxes(0, 1)
    return along(turned, width).swapaxes(0, 1)


def brute_force_views(image, size, crops):
    """Views in the order of Szegedy et al. 2014, by loops."""
    views = []
    short = min(image.shape[:2])

    def scaled(side):
        shape = [round(extent * side / short) for extent in image.shape[:2]]
        return bilinear(image, *shape)

    def five(picture):
        free_y, free_x = (extent - size for extent in picture.shape[:2])
        places = [(0, 0), (0, free_x), (free_y, 0), (free_y, free_x)]
        for y, x in [*places, (free_y // 2, free_x // 2)]:
            yield picture[y : y + size, x : x + size]

    if crops == 10:
        views += five(scaled(round(256 * size / 224)))
    else:
        for base in (256, 288, 320, 352):
            side = round(base * size / 224)
            picture = scaled(side)
            free_y, free_x = (e - side for e in picture.shape[:2])
            for i in range(3):
                y, x = i * free_y // 2, i * free_x // 2
                square = picture[y : y + side, x : x + side]
                views += [*five(square), bilinear(square, size, size)]
    return np.stack(views + [v[:, ::-1] for v in views]) / 127.5 - 1


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (33, 33), (20, 90)])
@pytest.mark.parametrize("crops", [10, 144])
def test_views_are_those_of_the_paper(shape, crops):
    encoded = pictures.png(3, *shape)
    image = pictures.pixels(3, *shape).numpy().astype(np.float64)
    found = views.test_views(tf.constant(encoded), size=28, crops=crops)
    expected = brute_force_views(image, 28, crops)
    assert found.shape == (crops, 28, 28, 3)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_single_view_is_the_middle_of_the_ten():
    encoded = tf.constant(pictures.png(3, 40, 60))
    single = views.test_view(encoded, size=28, padded=False)
    ten = views.test_views(encoded, size=28, crops=10)
    np.testing.assert_array_equal(single, ten[4])


def test_tiny_images_are_tested_whole():
    encoded = tf.constant(pictures.png(3, 8, 8))
    whole = views.test_view(encoded, size=8, padded=True)
    expected = pictures.pixels(3, 8, 8).numpy() / 127.5 - 1
    np.testing.assert_allclose(whole, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "shape"),
    [
        (None, (96, 128)),
        (49, (96, 128)),
        (48, (48, 64)),
        (24, (24, 32)),
        (1, (12, 16)),
    ],
)
def test_jpegs_are_decoded_no_larger_than_needed(side, shape):
    encoded = tf.constant(pictures.jpeg(2, 96, 128))
    image = decoding.decoded(encoded, side=side)
    assert tuple(image.shape) == (*shape, 3)
    whole = tf.cast(decoding.decoded(encoded), tf.float32)
    resized = tf.image.resize(whole, shape, "area")
    np.testing.assert_allclose(image, resized, atol=5)


@pytest.mark.parametrize("size", [8, 16, 64])
def test_a_shrunk_crop_shows_what_the_whole_one_does(size, monkeypatch):
    encoded = pictures.jpeg(7, 800, 1040)
    shrunk = training_views(encoded, range(12), size=size)
    monkeypatch.setattr(decoding, "RATIOS", (1, 10**6))
    for image, whole in zip(
        shrunk, training_views(encoded, range(12), size=size), strict=True
    ):
        # Its edges are rounded to whole pixels of the shrunk image: by up to
        # twice 7 of 800, where a colour takes half of them for all its range;
        # and colours to whole levels, twice.
        atol = 14 * 2 / 400 + 2 / 127.5
        np.testing.assert_allclose(image, whole, atol=atol)
