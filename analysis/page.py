# SPDX-License-Identifier: Apache-2.0
"""One HTML page that works offline, on a phone and on paper.

All that comes from runs, such as their names, is escaped.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from string import Template
from typing import NamedTuple


class Picture(NamedTuple):
    """A drawn figure: file name without ending, caption, PNG bytes."""

    name: str
    caption: str
    png: bytes

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.png"


def section(title: str, *parts: str) -> str:
    """A heading and its contents; empty if there are no contents."""
    contents = "\n".join(part for part in parts if part)
    return f"<h2>{html.escape(title)}</h2>\n{contents}" if contents else ""


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def items(lines: Iterable[str]) -> str:
    """A list; nothing if it is empty."""
    found = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{found}</ul>" if found else ""


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself where the page is narrow.

    Args:
        rows: Cells, the head first; nothing is drawn for a head alone.
    """
    if len(rows) < 2:
        return ""
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
        for row in body
    )
    return (
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def figure(picture: Picture) -> str:
    """A picture, embedded in the page, and its caption.

    A browser has 96 dots per inch, the pictures have 150.
    """
    data = base64.b64encode(picture.png).decode()
    width = int.from_bytes(picture.png[16:20]) * 96 // 150
    return (
        f'<figure><div class="wide"><img alt="{html.escape(picture.name)}" '
        f'width="{width}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def details(summary: str, contents: str) -> str:
    """Contents that are folded away on screen, but shown on paper."""
    return (
        f"<details><summary>{html.escape(summary)}</summary>"
        f"{contents}</details>"
    )


def page(title: str, *sections: str) -> str:
    """The whole page."""
    contents = "\n".join(each for each in sections if each)
    return _PAGE.substitute(title=html.escape(title), contents=contents)


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  margin: 0 auto; max-width: 64rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 1rem 0; }
img { max-width: max(100%, 40rem); height: auto; }
figcaption { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #ddd; vertical-align: top; }
th:first-child, td:first-child { text-align: left; white-space: normal;
  overflow-wrap: anywhere; min-width: 10rem; }
details { margin: .5rem 0; } summary { cursor: pointer; }
@media print {
  body { max-width: none; } img { max-width: 100%; }
  figure, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; height: auto; }
}
</style>
<h1>$title</h1>
$contents
</html>
""")
