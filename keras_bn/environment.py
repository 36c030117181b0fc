# SPDX-License-Identifier: Apache-2.0
"""What measurements depend on: device, platform, versions, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_bn._version import __version__


def environment(*, device: str) -> dict[str, Any]:
    """Commit, device, processor, platform and versions, for JSON.

    Args:
        device: What it ran on; see `devices`.
    """
    names = ("tensorflow", "keras", "numpy")
    return {
        "commit": commit(),
        "device": device,
        "processor": _processor(),
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
    """The commit of this code; `unknown` unless it is in a repository.

    It ends in `-dirty` if tracked files outside `docs` have changed.
    """
    if not _git("ls-files", Path(__file__).name):
        return "unknown"  # Installed, perhaps below somebody else's repository.
    changed = _git("status", "--porcelain", "-uno", "--", ":/", ":!/docs")
    name = _git("describe", "--always") or "unknown"
    return name + "-dirty" * bool(changed)


def _git(*arguments: str) -> str:
    """What git prints of this folder; nothing without repository or git."""
    folder = str(Path(__file__).parent)
    try:
        done = subprocess.run(
            # To look at a repository should not write its index.
            ["git", "--no-optional-locks", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [x.split(":")[1].strip() for x in lines if x.startswith("model n")]
    return names[0] if names else platform.machine()
