# SPDX-License-Identifier: Apache-2.0
"""What all commands share: flags, and errors as one line and an exit code."""

import dataclasses
import sys
from collections.abc import Callable

from absl import app, flags, logging

from keras_bn.errors import ExpectedError


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of this package.

    Its exit code is 0, or what `main` returns; 2 if it was not used as it
    must be (a `ValueError`, a wrong flag), 1 for what else the user can mend
    (an `ExpectedError`, an `OSError`), 130 after Ctrl-C. Then one line on
    standard error says why.

    Attributes:
        name: What that line begins with.
        main: Takes the arguments that are not flags.
        arguments: Names of those, all of which must be given.
    """

    name: str
    main: Callable[..., int | None]
    arguments: tuple[str, ...] = ()

    def run(self) -> None:
        """Parses the flags of this process, runs, and ends the process."""
        app.run(self, flags_parser=self.parse)

    def parse(self, argv: list[str]) -> list[str]:
        """Parses flags; returns what is none of them, the command first."""
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
            return self.main(*argv[1:]) or 0
        except ValueError as error:
            return self._say(str(error), 2)
        except (ExpectedError, OSError) as error:
            return self._say(str(error), 1)
        except KeyboardInterrupt:
            return self._say("interrupted", 130)

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
        print(f"{self.name}: {line}", file=sys.stderr)
        return code
