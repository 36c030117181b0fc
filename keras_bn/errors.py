# SPDX-License-Identifier: Apache-2.0
"""What may go wrong outside a program."""


class ExpectedError(Exception):
    """Something outside the program is not as it must be.

    The message is for the user, without a traceback: commands print it as
    one line and end with exit code 1.
    """
