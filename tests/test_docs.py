# SPDX-License-Identifier: Apache-2.0
import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NAMED = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
CODE = re.compile(
    r"`((?:analysis|benchmarks|examples|keras_bn|tests)/[\w/.]+\.py)"
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@functools.cache
def functions(path):
    tree = ast.parse(path.read_text("utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    for file, name in NAMED.findall(page.read_text("utf-8")):
        assert name in functions(ROOT / file), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text("utf-8")
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), target
    for target in CODE.findall(text):
        assert (ROOT / target).exists(), target


def test_each_thing_said_of_our_layer_names_its_test():
    text = (ROOT / "docs" / "features.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    unheld = [row for row in rows if not NAMED.search(row)]
    said = {row.split("|")[2].strip() for row in unheld}
    # Headers, rules, and what the layer does not do.
    headers = {"ours", "tested by", "how it fails", "---"}
    assert said - headers <= {"no"}
    assert len(rows) - len(unheld) > 30


def test_the_dashboard_listens_on_this_machine_only():
    """TensorBoard itself takes the flags of `make dashboard`."""
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    (serving,) = (line for line in lines if "/tensorboard " in line)
    flags = serving.replace("$(LOGDIR)", "runs").split()[1:]
    # In a process of its own: here, other commands have defined such flags.
    command = [sys.executable, "-m", "tensorboard.main", *flags]
    done = subprocess.run(
        [*command, "--version_tb"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--host=localhost" in flags
    assert not any(flag.startswith("--bind_all") for flag in flags)
