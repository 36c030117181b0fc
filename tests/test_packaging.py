# SPDX-License-Identifier: Apache-2.0
"""What is built, installed and run away from the source."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


FOLDERS = ("benchmarks", "docs", "examples", "requirements", "tests")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source archive, and the wheel that is built from it."""
    copy = tmp_path_factory.mktemp("source")  # As building leaves files there.
    for path in ROOT.iterdir():
        if path.name in (*FOLDERS, "analysis", "keras_bn"):
            shutil.copytree(path, copy / path.name)
        elif path.is_file():
            shutil.copy(path, copy)
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation"]
    subprocess.run(
        [*build, f"--outdir={folder}", str(copy)],
        check=True,
        capture_output=True,
    )
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def test_the_wheel_has_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    top = {name.split("/")[0] for name in names}
    assert {x for x in top if not x.endswith(".dist-info")} == {
        "analysis",
        "keras_bn",
    }
    assert {"analysis/py.typed", "keras_bn/py.typed"} <= set(names)
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_source_archive_has_what_the_readme_names(built):
    with tarfile.open(built[0]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "train.py"} <= names
    for folder in FOLDERS:
        ours = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert ours <= names, folder


def test_commands_run_from_the_wheel_away_from_the_source(built, tmp_path):
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(tmp_path / "installed")
    ended = subprocess.run(
        [sys.executable, "-m", "keras_bn.folding", "no.keras", "out.keras"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "no.keras cannot be read" in ended.stderr
