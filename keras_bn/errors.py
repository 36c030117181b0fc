# SPDX-License-Identifier: Apache-2.0
"""Errors caused outside the program, and how to word them."""

import re
from collections.abc import Sequence

#: Most letters of a reason: TensorFlow lists every label of a batch.
LONGEST = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Parts of a message that describe the program, not the problem.
_OF_TENSORFLOW = re.compile(
    r"\[\[\{\{.*"
    r"|\{\{function_node .*?\}\}"
    r"|Error in user-defined function .*? iterator: \S+"
    r"|\[Op:\w*\]( name:\s?\S*)?"
    r"|Traceback \(most recent call last\):.*",
    re.DOTALL,
)


class ExpectedError(Exception):
    """Something outside the program is not as it must be.

    The message is for the user, without a traceback: commands print it as
    one line and end with exit code 1.
    """


def some(names: Sequence[str]) -> str:
    """The first five of some names, and how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def reason(error: BaseException) -> str:
    """What is wrong, in a line, without what Keras or TensorFlow adds."""
    paragraphs = _COLOURS.sub("", str(error)).strip().split("\n\n")
    if paragraphs[0].startswith("Graph execution error"):
        why = paragraphs[-1]
    elif paragraphs[0].startswith("Exception encountered") and paragraphs[1:]:
        why = paragraphs[1]
    else:
        why = paragraphs[0]
    line = " ".join(_OF_TENSORFLOW.sub("", why).split()) or repr(error)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."
