"""CSV (RFC 4180), for programs, for a terminal and for spreadsheets."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

from pacs_tasks.privacy import plain

#: Spreadsheets take a cell that begins so for a formula, also in the wide and small forms of East Asian text.
_SIGN = "[-=+@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]"
#: Blanks, control and format characters before the sign do not show, and quotes may be dropped.
_HIDDEN = (
    "\\s\\x00-\\x1f\\x7f-\\x9f\\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff\"'"
)
_BREAKS = ("\t", "\r", "\n")
#: Where a spreadsheet begins a cell: with our commas, and where its language has other separators, which then also
#: splits lines within quotes. After a separator only, what hides the sign ends at the next one: else, many separators
#: would take time by their square.
_BEGINNING = rf"(?:\A(?={{0}}[{_HIDDEN}]*{_SIGN})|(?<=[;\t\r\n])(?={{0}}(?:(?![;\t\r\n])[{_HIDDEN}])*{_SIGN}))"
_FORMULA = re.compile(_BEGINNING.format(""))
_WRITTEN = re.compile(f"{_BEGINNING.format(chr(39))}'")
#: Spreadsheets read UTF-8 where a file begins with this mark.
BOM = "\ufeff"


def csv_lines(rows: Iterable[Iterable[object]], *, on_terminal: bool = False, excel: bool = False) -> str:
    """Write rows as CSV.

    Parameters
    ----------
    on_terminal
        Show characters that steer a terminal as escapes.
    excel
        Put an apostrophe before each cell that a spreadsheet would take for a formula, and within a cell wherever a
        spreadsheet with other separators would begin one.
    """

    def cell(value: object) -> object:
        if not isinstance(value, str):
            return value
        if excel:
            text = _FORMULA.sub("'", value)
            value = f"'{text}" if text.startswith(_BREAKS) else text
        return plain(value) if on_terminal else value

    # Most commands write none.
    import csv

    text = io.StringIO()
    csv.writer(text, lineterminator="\n" if on_terminal else "\r\n").writerows(map(cell, row) for row in rows)
    return text.getvalue()


def without_apostrophe(cell: str) -> str:
    """Take the apostrophes off a cell that has them since a spreadsheet would take it for a formula."""
    return _WRITTEN.sub("", cell)
