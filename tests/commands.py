# SPDX-License-Identifier: Apache-2.0
"""Calls a command as a shell would, but in this process."""

from absl import flags
from absl.testing import flagsaver


def call(command, *arguments):
    """The command's exit code."""
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        try:
            return command(command.parse([command.name, *map(str, arguments)]))
        except SystemExit as error:
            return error.code
