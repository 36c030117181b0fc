# SPDX-License-Identifier: Apache-2.0
"""Gives zip archives header fields that `zipfile` itself does not write."""

import struct

ENCRYPTED = {"flags": 1}
FROM_THE_FUTURE = {"version": 99}
OF_UNKNOWN_COMPRESSION = {"method": 77}
#: Where the fields are in a member's own header; the directory's has two more.
_PLACES = {"version": 4, "flags": 6, "method": 8}


def spoil(path, changes):
    """Sets a field in all headers of an archive; returns its path."""
    contents = bytearray(path.read_bytes())
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        start = contents.find(signature)
        while start >= 0:
            for field, value in changes.items():
                place = start + _PLACES[field] + shift
                struct.pack_into("<H", contents, place, value)
            start = contents.find(signature, start + 4)
    path.write_bytes(contents)
    return path
