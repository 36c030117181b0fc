# SPDX-License-Identifier: Apache-2.0
"""Small pictures, and folders and archives of them, for tests."""

import base64
import zipfile

import numpy as np
import tensorflow as tf

#: An 8x8 JPEG with four inks (Adobe's inverted CMYK), all of it orange.
CMYK = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwADAgIDAgIDAwMDBAMDBAUIBQUEBAUKBwcGCAwKDA"
    "wLCgsLDQ4SEA0OEQ4LCxAWEBETFBUVFQwPFxgWFBgSFBUU/8AAFAgACAAIBEMRAE0RAFkR"
    "AEsRAP/EABUAAQEAAAAAAAAAAAAAAAAAAAkF/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAA"
    "4EQwBNAFkASwAAPwBK0ofRU3//2Q=="
)


def pixels(seed=0, height=12, width=16, channels=3):
    """Smooth colours that differ from seed to seed, `[H, W, C]` uint8."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (2, 2, channels)).astype(np.float32)
    return tf.cast(tf.image.resize(corners, (height, width)), tf.uint8)


def jpeg(seed=0, height=12, width=16, channels=3):
    return tf.io.encode_jpeg(
        pixels(seed, height, width, channels), quality=95
    ).numpy()


def png(seed=0, height=12, width=16, channels=3):
    return tf.io.encode_png(pixels(seed, height, width, channels)).numpy()


def members(train=6, test=2, classes=("cat", "dog"), **size):
    """Names and contents of a data set of pictures."""
    counts = {"train": train, "val": test}
    return {
        f"{part}/{name}/{i}.jpg": jpeg(
            100 * c + i + 50 * (part == "val"), **size
        )
        for part, count in counts.items()
        for c, name in enumerate(classes)
        for i in range(count)
    }


def write_folder(folder, contents):
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_zip(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path
