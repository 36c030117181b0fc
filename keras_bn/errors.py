# SPDX-License-Identifier: Apache-2.0
"""What may go wrong outside a program, and how to say it."""

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: What a message says of the program rather than of what is wrong.
_OF_TENSORFLOW = re.compile(
    r"\{\{function_node .*?\}\}"
    r"|Error in user-defined function .*? iterator: \S+"
    r"|\[Op:\w*\]( name:\s?\S*)?"
    r"|\[\[\{\{node.*"
    r"|Traceback \(most recent call last\):.*",
    re.DOTALL,
)


class ExpectedError(Exception):
    """Something outside the program is not as it must be.

    The message is for the user, without a traceback: commands print it as
    one line and end with exit code 1.
    """


def reason(error: BaseException, *, longest: int = 300) -> str:
    """What is wrong, in a line, without what Keras or TensorFlow adds.

    Args:
        error: Whatever was raised.
        longest: Most letters: TensorFlow lists every label of a batch.
    """
    paragraphs = _COLOURS.sub("", str(error)).strip().split("\n\n")
    if paragraphs[0].startswith("Graph execution error"):
        why = paragraphs[-1]
    elif paragraphs[0].startswith("Exception encountered") and paragraphs[1:]:
        why = paragraphs[1]
    else:
        why = paragraphs[0]
    line = " ".join(_OF_TENSORFLOW.sub("", why).split()) or repr(error)
    return line if len(line) <= longest else f"{line[: longest - 4]} ..."
