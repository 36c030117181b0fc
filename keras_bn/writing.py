# SPDX-License-Identifier: Apache-2.0
"""Files that are written completely or not at all."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: How the names of incomplete files begin, as a pattern.
TEMPORARY = "tmp.*."


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` after the block.

    If the block fails, nothing that it has written is left.
    """
    # Not a name that anything else has.
    prefix = TEMPORARY.replace("*", str(os.getpid()))
    temporary = path.with_name(prefix + path.name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, contents: Any) -> None:
    """Writes JSON, `null` for numbers that are not finite."""
    text = json.dumps(_finite(contents), indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", "utf-8")


def _finite(contents: Any) -> Any:
    """With `None` for numbers that JSON does not have."""
    if isinstance(contents, dict):
        return {key: _finite(value) for key, value in contents.items()}
    if isinstance(contents, list | tuple):
        return [_finite(value) for value in contents]
    if isinstance(contents, float) and not math.isfinite(contents):
        return None
    return contents
