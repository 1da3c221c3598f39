"""Rows of a CSV file as people export it from a spreadsheet: what shall be queried, or retrieved, one row each.

Messages name lines and counts; the path, and what stands in a cell, may be private and go to the subject.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pacs_tasks.cli.output.terminal import plain, readable
from pacs_tasks.errors import InvalidRequestError, UnreadableInputError

#: Rows that one job takes.
MOST_ROWS = 100_000
#: Bytes that a file may have: so many rows of 600 bytes each.
MOST_BYTES = 60_000_000
#: What a spreadsheet puts between two cells, by language and by format.
_DELIMITERS = ",;\t"
_LONGEST_SHOWN = 64


@dataclass(frozen=True)
class Row:
    """One row. ``number`` is its line in the file, the first being 1; ``values`` are its cells that are not empty."""

    number: int
    values: Mapping[str, str]


def read(path: str, known: Collection[str]) -> list[Row]:
    """Read a file whose first line names its columns.

    The text is UTF-8, or UTF-16 with its mark, else GB18030; cells are separated by commas, semicolons or tabs. Names
    of columns may be written in small or capital letters. Lines without any value are left out.

    Parameters
    ----------
    known
        The names that a column may have; what it contains without listing it is taken as it stands.

    Raises
    ------
    UnreadableInputError
        If it cannot be read, is no text, or is too large.
    InvalidRequestError
        If it has no rows or too many of them, a column that is not known or stands there twice, or a broken row.
    """
    shown = readable(path)
    lines = _lines(_text(path, shown), shown)
    _, header = next(lines, (0, []))
    if not header:
        raise InvalidRequestError("this file is empty; its first line names the columns, such as PatientID", shown)
    columns = _columns(header, known, shown)
    rows: list[Row] = []
    for number, cells in lines:
        if len(cells) > len(columns):
            raise InvalidRequestError(
                f"line {number} has {len(cells)} cells where the first line names {_count(len(columns), 'column')}; "
                "put a value that holds the separator in quotation marks",
                shown,
            )
        if len(rows) == MOST_ROWS:
            raise InvalidRequestError(f"this file has more than {MOST_ROWS} rows; split it", shown)
        rows.append(Row(number, {name: cell for name, cell in zip(columns, cells, strict=False) if cell}))
    if not rows:
        raise InvalidRequestError("this file has no row below the names of its columns; add one", shown)
    return rows


def _text(path: str, shown: str) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no file can be called so"
        raise UnreadableInputError(
            f"this file cannot be read ({why}); check the path and its permissions", shown
        ) from None
    if len(content) > MOST_BYTES:
        raise UnreadableInputError(f"this file has more than {MOST_BYTES // 1_000_000} MB; split it", shown)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "gb18030"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise UnreadableInputError("this file is no text; save it as CSV, which Excel calls CSV UTF-8", shown)


def _lines(text: str, shown: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each line that has a value, without the empty cells at its end."""
    source = io.StringIO(text, newline="")
    first = next((line for line in source if line.strip(f"{_DELIMITERS} \r\n")), "")
    source.seek(0)
    reader = csv.reader(source, delimiter=max(_DELIMITERS, key=first.count), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidRequestError(
                f"line {number} is no row of a CSV file ({error}); look for a quotation mark that is not closed", shown
            ) from None
        while cells and not cells[-1]:
            cells.pop()
        for column, cell in enumerate(cells, 1):
            if not cell.isprintable() and plain(cell) != cell:
                raise InvalidRequestError(
                    f"line {number} has a line break or another control character in cell {column}; take it out", shown
                )
        if cells:
            yield number, cells


def _columns(header: list[str], known: Collection[str], shown: str) -> list[str]:
    """The names of the columns as they are known."""
    names = {name.lower(): name for name in known}
    columns: list[str] = []
    for number, cell in enumerate(header, 1):
        name = names.get(cell.lower(), cell if cell in known else "")
        what = f"{shown}, column {cell[:_LONGEST_SHOWN]!r}" if cell else shown
        if not cell:
            raise InvalidRequestError(f"column {number} has no name in the first line; name it or take it out", shown)
        if not name:
            raise InvalidRequestError(f"this name of column {number} is not known{_offer(cell, names)}", what)
        if name in columns:
            raise InvalidRequestError(f"column {number} has the name of column {columns.index(name) + 1}", what)
        columns.append(name)
    return columns


def _offer(cell: str, names: Mapping[str, str]) -> str:
    near = [names[each] for each in difflib.get_close_matches(cell.lower(), names, n=2)]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    few = sorted(names.values()) if len(names) < 10 else ["PatientID", "StudyDate"]
    return f"; the first line names columns such as {', '.join(few)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
