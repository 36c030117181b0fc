# SPDX-License-Identifier: Apache-2.0
"""What figures depend on: device, platform, versions, commit."""

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from keras_bn._version import __version__


def environment(*, device: str) -> dict[str, Any]:
    """Device, platform and versions, for JSON.

    Args:
        device: What it ran on; see `devices`.
    """
    names = ("tensorflow", "keras", "numpy")
    return {
        "device": device,
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            "keras_bn": __version__,
            **{name: metadata.version(name) for name in names},
        },
    }


def devices() -> str:
    """All that Keras may run on, separated by commas."""
    import keras

    return ", ".join(keras.distribution.list_devices())


def commit() -> str:
    """The commit of the repository that this runs in, or `unknown`.

    Marked as dirty where code differs from it; results in docs are no code.
    """
    name = _git("describe", "--always") or "unknown"
    changed = _git("status", "--porcelain", "-uno", "--", ":!docs")
    return name + "-dirty" * bool(changed)


def _git(*arguments: str) -> str:
    """What git prints; nothing where there is no repository, or no git."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
