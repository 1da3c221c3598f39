"""CSV (RFC 4180), for programs, for a terminal and for spreadsheets."""

from __future__ import annotations

import io
from collections.abc import Iterable

from pacs_tasks.privacy import plain

#: Spreadsheets take a cell that begins so for a formula, also after blanks and in the wide form of East Asian text.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_BREAKS = ("\t", "\r", "\n")
#: Spreadsheets read UTF-8 where a file begins with this mark.
BOM = "\ufeff"


def csv_lines(rows: Iterable[Iterable[object]], *, on_terminal: bool = False, excel: bool = False) -> str:
    """Write rows as CSV.

    Parameters
    ----------
    on_terminal
        Show characters that steer a terminal as escapes.
    excel
        Put an apostrophe before each cell that a spreadsheet would take for a formula.
    """

    def cell(value: object) -> object:
        if not isinstance(value, str):
            return value
        if excel and (value.startswith(_BREAKS) or _is_formula(value)):
            value = f"'{value}"
        return plain(value) if on_terminal else value

    # Most commands write none.
    import csv

    text = io.StringIO()
    csv.writer(text, lineterminator="\n" if on_terminal else "\r\n").writerows(map(cell, row) for row in rows)
    return text.getvalue()


def without_apostrophe(cell: str) -> str:
    """Take the apostrophe off a cell that has it since a spreadsheet would take it for a formula."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(cell: str) -> bool:
    return cell.lstrip().startswith(_FORMULA)
