# SPDX-License-Identifier: Apache-2.0
"""What the first and last bytes of a JPEG or PNG say."""

import struct

#: Most pixels of an image; one with more is taken as an attack on our memory.
MOST_PIXELS = 2**28
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def damage_of(data: bytes) -> str:
    """Why encoded bytes cannot be decoded; empty if they look whole."""
    if not data:
        return "it is empty"
    if not (is_jpeg(data) or data.startswith(_PNG)):
        return "it is neither JPEG nor PNG"
    size = picture_size(data)
    end = b"\xff\xd9" if is_jpeg(data) else b"IEND"
    if size is None or 0 in size:
        return "its header is damaged"
    if size[0] * size[1] > MOST_PIXELS:
        return f"it has more than {MOST_PIXELS:,} pixels"
    return "" if end in data[-1024:] else "its end is missing"


def is_jpeg(data: bytes) -> bool:
    """Whether encoded bytes begin as a JPEG does."""
    return data.startswith(_JPEG)


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG or PNG from its header, where it has one."""
    if is_jpeg(data):
        return _jpeg_size(data)
    if len(data) <= 24:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from the first frame header (ITU T.81, B.2.2)."""
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        if marker in (0xD9, 0xDA):
            return None
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None
