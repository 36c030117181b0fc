# SPDX-License-Identifier: Apache-2.0
"""What all commands share: flags, and errors as one line and an exit code."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from absl import app, flags, logging

from keras_bn.errors import ExpectedError


class Output:
    """Standard output that drops the rest once it is full or closed.

    What a command does must not depend on whether anyone reads its output.

    Attributes:
        error: Why something was dropped, or `None`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Writes, or drops."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Writes out what was kept back, or drops it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError) -> None:
        self.error = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of this package.

    Its exit code is 0 or what `main` returns; 2 for wrong use (a `ValueError`,
    a wrong flag); 1 for other problems that the user can fix (an
    `ExpectedError`, an `OSError`); 130 after Ctrl-C. After an error, one line
    on standard error says why, and with `--verbosity=1` the traceback.

    Attributes:
        name: Start of that line.
        main: Takes the arguments that are not flags.
        arguments: Names of the arguments that are not flags, all required.
    """

    name: str
    main: Callable[..., int | None]
    arguments: tuple[str, ...] = ()

    def run(self) -> None:
        """Parses the flags of this process, runs, and ends the process."""
        # It is None if it was closed before the process began.
        sys.stdout = Output(sys.stdout or open(os.devnull, "w"))  # noqa: SIM115
        try:
            app.run(self, flags_parser=self.parse)
        except KeyboardInterrupt:  # From callbacks that absl runs first.
            sys.exit(self._say("interrupted", 130))

    def parse(self, argv: list[str]) -> list[str]:
        """Parses flags; returns the other arguments, the command first."""
        try:
            rest: list[str] = flags.FLAGS(argv)
            self._check(rest[1:])
        except (flags.Error, ValueError) as error:
            self._say(str(error))
            sys.exit(2)
        except SystemExit:  # after --help, which to absl is a failure
            sys.exit(0)
        return rest

    def __call__(self, argv: list[str]) -> int:
        """Runs with what `parse` returned; returns the exit code."""
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            return self._exit_code(self.main(*argv[1:]) or 0)
        except ValueError as error:
            return self._say(str(error), 2)
        except ExpectedError as error:
            return self._say(str(error), 1)
        except OSError as error:
            one_file = isinstance(error.filename, str) and not error.filename2
            if one_file and error.strerror:
                return self._say(f"{error.filename}: {error.strerror}", 1)
            return self._say(str(error) or repr(error), 1)
        except KeyboardInterrupt:
            return self._say("interrupted", 130)

    def _exit_code(self, code: int) -> int:
        """The exit code, which is not 0 if the command's output was lost."""
        sys.stdout.flush()
        error = getattr(sys.stdout, "error", None)
        if error is None or isinstance(error, BrokenPipeError):
            return code
        line = f"standard output cannot be written: {error.strerror}"
        return self._say(line, code or 1)

    def _check(self, given: list[str]) -> None:
        if given and not self.arguments:
            raise ValueError(f"only flags are taken. Received: {given[0]}")
        if len(given) != len(self.arguments):
            raise ValueError(
                f"the arguments must be {' '.join(self.arguments)}. "
                f"Received: {' '.join(given) or 'none'}"
            )

    def _say(self, message: str, code: int = 2) -> int:
        line = " ".join(message.split())
        if sys.exc_info()[0]:
            logging.debug("%s was ended by", self.name, exc_info=True)
        with contextlib.suppress(OSError):  # of a terminal that is closed
            print(f"{self.name}: {line}", file=sys.stderr)
        return code
