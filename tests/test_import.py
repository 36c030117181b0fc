# SPDX-License-Identifier: Apache-2.0
"""What `import keras_bn` loads."""

import subprocess
import sys

PROGRAM = """
import sys
import keras
before = set(sys.modules)
import keras_bn
print(*sorted(set(sys.modules) - before))
"""


def test_nothing_is_loaded_but_keras_and_what_the_layer_needs():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
    )
    added = done.stdout.split()
    assert "keras_bn.layer" in added
    for name in added:
        assert name.startswith("keras_bn")
        assert not name.startswith(("keras_bn.data", "keras_bn.training"))
