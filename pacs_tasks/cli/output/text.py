"""Text for people: safe to print, figures with their units, lists of facts, and tables."""

from __future__ import annotations

import datetime
import io
import os
import sys
import unicodedata
from collections.abc import Collection, Iterable
from typing import NamedTuple, TextIO

#: Columns of a table that goes to a pipe or a file. Each row stays one line, so that ``grep`` finds all of it.
_UNLIMITED = 100_000
#: SGR codes of the styles (ECMA-48 section 8.3.117).
_CODES = {"bold": 1, "red": 31, "green": 32, "yellow": 33}

#: The style of each category of an outcome.
STYLES = {"success": "green", "warning": "yellow", "partial": "yellow", "failed": "red", "cancelled": "yellow"}


def plain(text: str) -> str:
    """Replace control characters by spaces, so that text of a remote cannot control the terminal."""
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)


def readable(text: str) -> str:
    """Replace each byte that could not be decoded by a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def sentence(text: str) -> str:
    """Begin with a capital letter and end with a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun: ``1 query``, ``3 queries``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def size(count: float) -> str:
    """Write a number of bytes in powers of 1000, as disks and networks count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Write seconds: ``0.04 s``, ``12.3 s``."""
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"


def when(seconds: float | None) -> str:
    """Write a Unix time as local date and time; nothing for None."""
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Cell(NamedTuple):
    """Text with a style: ``red``, ``green``, ``yellow`` or ``bold``."""

    text: str
    style: str = ""


class Fact(NamedTuple):
    """A named value. A fact without a value is not shown."""

    name: str
    value: str
    style: str = ""


class Table:
    """Rows below headings. The cells of the columns ``whole`` are never broken: people copy ids from them."""

    def __init__(self, *headings: str, whole: Collection[int] = ()) -> None:
        self.headings = headings
        self.whole = whole
        self.rows: list[tuple[Cell | str, ...]] = []

    def add(self, *cells: Cell | str) -> None:
        self.rows.append(cells)


def is_coloured(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb" and not os.environ.get("NO_COLOR")


def in_style(text: str, style: str, stream: TextIO) -> str:
    """Give text a style where the stream shows one."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and is_coloured(stream) else text


def draw_facts(facts: Iterable[Fact]) -> str:
    """Draw facts for stdout, a line each. This is done without rich, which takes as long to import as an echo."""
    shown = [fact for fact in facts if fact.value]
    width = max((len(fact.name) for fact in shown), default=0)
    return "".join(f"{each.name:<{width}}  {in_style(plain(each.value), each.style, sys.stdout)}\n" for each in shown)


def draw(table: Table) -> str:
    """Draw a table for stdout.

    On a terminal that is too narrow for the whole columns, each row becomes one line, which the terminal breaks.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(table.headings):
        drawn.add_column(heading, overflow="fold", no_wrap=number in table.whole)
    for row in table.rows:
        drawn.add_row(*(Text(cell) if isinstance(cell, str) else Text(cell.text, cell.style) for cell in row))
    output = io.StringIO()
    on_terminal = sys.stdout.isatty()
    console = Console(file=output, force_terminal=on_terminal or None, highlight=False, emoji=False)
    options = console.options.update(max_width=_UNLIMITED)
    if not on_terminal or (table.whole and Measurement.get(console, options, drawn).minimum > console.width):
        console.width = _UNLIMITED
    console.print(drawn)
    # Rich pads each line to the width of the table.
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())
