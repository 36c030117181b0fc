# SPDX-License-Identifier: Apache-2.0
"""Keras' own test files, from the installed package, against our layer."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tests import versions

SOURCE = Path(keras.__file__).parent / "src"
#: Test file, tests of it (all if none), how many must pass.
SUITES = {
    "batch_normalization": (
        "layers/normalization/batch_normalization_test.py",
        [],
        33 if versions.KERAS >= (3, 14) else 27,
    ),
    "wrapper": ("layers/core/wrapper_test.py", [], None),
    "dtype_policy_map": (
        "dtype_policies/dtype_policy_map_test.py", ["test_basic_usage"], None
    ),
    "saved_model": (
        "export/saved_model_test.py",
        ["test_layer_export", "test_standard_model_export"],
        None,
    ),
    "legacy_h5": ("legacy/saving/legacy_h5_format_test.py", [], None),
}  # fmt: skip


@pytest.mark.parametrize("suite", SUITES)
def test_keras_own_tests_pass_on_our_layer(suite, tmp_path):
    file, names, expected = SUITES[suite]
    if not (SOURCE / file).exists():
        pytest.skip(f"Keras {keras.__version__} comes without its tests")
    root = Path(__file__).parents[2]
    # From a folder of its own: the project's pytest options are not Keras'.
    result = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "tests.peers.plugin",
            "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-q",
            "-c", os.devnull, str(SOURCE / file),
            *(["-k", " or ".join(names)] if names else []),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert int(re.search(r"our layers built: (\d+)", output)[1]) > 0
    passed = int(re.search(r"(\d+) passed", output)[1])
    if expected is None:
        assert passed >= 1
    else:
        assert passed == expected
        assert "deselected" not in output
        assert "skipped" not in output
