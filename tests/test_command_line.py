# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest
from absl import app

from keras_bn.command_line import Command
from keras_bn.data import DataError
from keras_bn.errors import ExpectedError
from keras_bn.run_folder import RunFolderError
from keras_bn.training import CheckpointError, TrainingError
from tests.commands import call


def failing(error):
    def main():
        raise error

    return Command("it", main)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("x must be 1. Received: x=2"), 2, "x must be 1. Received"),
        (ExpectedError("no such\ndisk"), 1, "no such disk"),
        (OSError(28, "No space left", "/f"), 1, "/f: No space left"),
        (OSError(18, "Cross-device", "/f", None, "/g"), 1, "'/f' -> '/g'"),
        (OSError(), 1, "OSError()"),
        (KeyboardInterrupt(), 130, "interrupted"),
        *(
            (error("broken"), 1, "broken")
            for error in (
                CheckpointError,
                DataError,
                RunFolderError,
                TrainingError,
            )
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_an_exit_code(error, code, line, capsys):
    assert call(failing(error)) == code
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("it: ")
    assert line in said


def test_the_traceback_of_an_error_can_be_asked_for(caplog, capsys):
    caplog.set_level("DEBUG", logger="absl")
    assert call(failing(ValueError("broken")), "--verbosity=1") == 2
    assert capsys.readouterr().err.endswith("it: broken\n")
    (record,) = caplog.records
    assert record.exc_info[0] is ValueError


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        (">/dev/full", 1, "it: standard output cannot be written: No space"),
        ("| true", 0, ""),
        (">&-", 0, ""),
    ],
)
def test_what_is_said_may_find_no_reader(shell, code, said, tmp_path):
    """All is done; the exit code tells if words are lost on a full disk."""
    done = tmp_path / "done"
    program = (
        "import pathlib\n"
        "from keras_bn.command_line import Command\n"
        "def main():\n"
        "    for _ in range(9):\n"
        "        print('x' * 2**14, flush=True)\n"
        f"    pathlib.Path({str(done)!r}).touch()\n"
        "Command('it', main).run()\n"
    )
    (tmp_path / "it.py").write_text(program)
    line = (
        f"{sys.executable} {tmp_path / 'it.py'} {shell}; exit ${{PIPESTATUS}}"
    )
    ended = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    assert done.exists()
    assert said in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert said or "\nit: " not in f"\n{ended.stderr}"


def test_ctrl_c_before_the_command_begins_is_one_line(monkeypatch, capsys):
    """As while TensorFlow looks for devices, which absl has it do first."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdout", sys.stdout)  # Which it replaces.
    monkeypatch.setattr(app, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        Command("it", lambda: None).run()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "it: interrupted\n"


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError):
        call(failing(KeyError("defect")))


@pytest.mark.parametrize(
    ("given", "code", "line"),
    [
        (["a", "b"], 3, ""),
        (["a"], 2, "it: the arguments must be SRC DST. Received: a"),
        ([], 2, "it: the arguments must be SRC DST. Received: none"),
        (["a", "b", "--nope"], 2, "it: Unknown command line flag 'nope'"),
    ],
)
def test_arguments_are_counted(given, code, line, capsys):
    seen = []

    def main(source, target):
        seen.append((source, target))
        return 3

    assert call(Command("it", main, ("SRC", "DST")), *given) == code
    assert seen == ([("a", "b")] if code == 3 else [])
    assert capsys.readouterr().err.startswith(line)
