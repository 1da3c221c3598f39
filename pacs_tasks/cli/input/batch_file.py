"""Rows of a CSV file that people export from a spreadsheet, and what each row selects for a retrieve.

Messages name lines and counts only: the path and the cells may be private, so they go to the subject.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pacs_tasks.cli.output.sheet import without_apostrophe
from pacs_tasks.cli.output.terminal import counted, readable
from pacs_tasks.errors import InvalidRequestError, UnreadableInputError
from pacs_tasks.request import Selection, build

#: The path that stands for stdin.
STDIN = "-"
#: The most rows of one job.
MOST_ROWS = 100_000
#: The most bytes of a file: that many rows of 600 bytes each.
MOST_BYTES = 60_000_000
#: Separators that spreadsheets write, depending on the language and the format.
_DELIMITERS = ",;\t"
_LONGEST_SHOWN = 64


@dataclass(frozen=True)
class Row:
    """One row. ``number`` is its line in the file, from 1; ``values`` are the cells that are not empty."""

    number: int
    values: Mapping[str, str]


class Rows(NamedTuple):
    """The rows of a file, the names of its columns, and of those that nobody needs."""

    rows: list[Row]
    columns: list[str]
    spare: list[str]


def read(path: str, known: Collection[str], other: Callable[[str], str | None] = lambda _: None) -> Rows:
    """Read a file whose first line names its columns. ``-`` is stdin.

    The text is UTF-8, UTF-16 with a byte order mark, or GB18030. Commas, semicolons or tabs separate the cells. Names
    of columns are not case-sensitive. Lines without any value are left out. An apostrophe before a formula, as --excel
    writes it, does not count.

    Parameters
    ----------
    known
        The names that a column may have.
    other
        The name by which a column with another name goes. Empty: it is left out, beside at least one that is known.
        None: the file is refused.

    Raises
    ------
    UnreadableInputError
        If the file cannot be read, is not text, or is too large.
    InvalidRequestError
        If the file has no rows or too many, an unknown or repeated column, or a broken row.
    """
    shown = "stdin" if path == STDIN else readable(path)
    lines = _lines(_text(path, shown), shown)
    _, header = next(lines, (0, []))
    if not header:
        raise InvalidRequestError("This file is empty. Name the columns in its first line, such as PatientID.", shown)
    columns = _columns(header, known, shown, other)
    rows: list[Row] = []
    for number, cells in lines:
        if len(cells) > len(columns):
            raise InvalidRequestError(
                f"Line {number} has {len(cells)} cells, but the first line names {counted(len(columns), 'column')}. "
                "Put a value that holds the separator in quotation marks.",
                shown,
            )
        if len(rows) == MOST_ROWS:
            raise InvalidRequestError(f"This file has more than {MOST_ROWS} rows. Split it.", shown)
        rows.append(Row(number, {name: cell for name, cell in zip(columns, cells, strict=False) if cell and name}))
    if not rows:
        raise InvalidRequestError("This file has no row below the names of its columns. Add one.", shown)
    spare_ones = [cell for cell, name in zip(header, columns, strict=True) if not name]
    return Rows(rows, [name for name in columns if name], spare_ones)


def opened(path: str) -> AbstractContextManager[BinaryIO]:
    """Open a file to read, or stdin for ``-``."""
    if path == STDIN:
        return nullcontext(getattr(sys.stdin, "buffer", io.BytesIO()))
    return Path(os.path.expanduser(path)).open("rb")


def _text(path: str, shown: str) -> str:
    try:
        with opened(path) as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a possible name of a file"
        raise UnreadableInputError(
            f"This file cannot be read ({why}). Check the path and its permissions.", shown
        ) from None
    if len(content) > MOST_BYTES:
        raise UnreadableInputError(f"This file has more than {MOST_BYTES // 1_000_000} MB. Split it.", shown)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "gb18030"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise UnreadableInputError("This file is not text. Save it as CSV, which Excel calls CSV UTF-8.", shown)


def _lines(text: str, shown: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each line with a value, without the empty cells at its end."""
    source = io.StringIO(text, newline="")
    first = next((line for line in source if line.strip(f"{_DELIMITERS} \r\n")), "")
    source.seek(0)
    reader = csv.reader(source, delimiter=max(_DELIMITERS, key=first.count), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = [without_apostrophe(cell.strip()) for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidRequestError(
                f"Line {number} is not a row of a CSV file ({error}). Look for a quotation mark that is not closed.",
                shown,
            ) from None
        while cells and not cells[-1]:
            cells.pop()
        _check_characters(number, cells, shown)
        if cells:
            yield number, cells


def _check_characters(number: int, cells: list[str], shown: str) -> None:
    """Reject a line with a control character in a cell."""
    for column, cell in enumerate(cells, 1):
        if not cell.isprintable() and any(unicodedata.category(each) == "Cc" for each in cell):
            raise InvalidRequestError(
                f"Line {number} has a line break or another control character in cell {column}. Remove it.",
                shown,
            )


def _columns(header: list[str], known: Collection[str], shown: str, other: Callable[[str], str | None]) -> list[str]:
    """The known names of the columns; that of a spare one is empty."""
    names = {name.lower(): name for name in known}
    columns: list[str] = []
    for number, cell in enumerate(header, 1):
        if not cell:
            raise InvalidRequestError(f"Column {number} has no name in the first line. Name or remove it.", shown)
        what = f"{shown}, column {cell[:_LONGEST_SHOWN]!r}"
        name = names.get(cell.lower()) or other(cell)
        if name is None:
            raise InvalidRequestError(f"The name of column {number} is not known. {_suggestion(cell, names)}", what)
        if name and name in columns:
            raise InvalidRequestError(
                f"Column {number} has the name of column {columns.index(name) + 1}. Remove one of them.", what
            )
        columns.append(name)
    if not any(columns):
        raise InvalidRequestError(
            f"No column names what to retrieve. Name one in the first line, such as {next(iter(known))}.",
            shown,
        )
    return columns


def _suggestion(cell: str, names: Mapping[str, str]) -> str:
    near = [names[each] for each in difflib.get_close_matches(cell.lower(), names, n=2)]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    few = sorted(names.values()) if len(names) < 10 else ["PatientID", "StudyDate"]
    return f"Name columns in the first line, such as {', '.join(few)}."


def selections(
    path: str, columns: Mapping[str, str], optional: Collection[str] = ()
) -> tuple[tuple[Selection, ...], list[str]]:
    """What the rows of a file select, and the names of the columns that this did not need.

    The file may be the answer of a query (``query --format csv``). Columns that no selection has are spare then, and
    beside a study, ``optional`` ones too. Each row has all UIDs of which there is a column.

    Parameters
    ----------
    columns
        The names of columns, with the fields of a selection that they fill.

    Raises
    ------
    InvalidRequestError
        If the file or a row of it is not valid; the message names the line.
    """
    rows, named, spare = read(path, columns, lambda name: "" if _is_attribute(name, columns) else None)
    shown = "stdin" if path == STDIN else readable(path)
    if spare:
        uids = [name for name in named if name.endswith("UID")]
        rows = [_of_answer(row, uids, optional, shown) for row in rows]
    return tuple(_selection(row, columns, shown) for row in rows), spare


def _is_attribute(name: str, columns: Collection[str]) -> bool:
    """Whether a column is another attribute, and not a known one that is misspelt."""
    # Loading the dictionary takes as long as a whole echo; most files have no such column.
    from pydicom.datadict import tag_for_keyword

    near = difflib.get_close_matches(name.lower(), [each.lower() for each in columns], n=1, cutoff=0.8)
    return not near or any(tag_for_keyword(part) is not None for part in name.split("."))


def _of_answer(row: Row, uids: Collection[str], optional: Collection[str], shown: str) -> Row:
    """A row of the answer to a query, which needs no more than its UIDs.

    Without one of them, it would select the whole study, or all studies of the patient.
    """
    for name in uids:
        if name not in row.values:
            raise InvalidRequestError(
                f"Line {row.number} has no {name}, so it would retrieve more than it names. Write it, or remove the "
                "line.",
                shown,
            )
    if "StudyInstanceUID" not in row.values:
        return row
    return Row(row.number, {name: cell for name, cell in row.values.items() if name not in optional})


def _selection(row: Row, columns: Mapping[str, str], shown: str) -> Selection:
    fields: dict[str, Any] = {columns[name]: cell for name, cell in row.values.items()}
    if "sop_instance_uids" in fields:
        fields["sop_instance_uids"] = fields["sop_instance_uids"].split("\\")
    try:
        return build(Selection, {**fields, "row": row.number})
    except InvalidRequestError as error:
        cells = ", ".join(f"{name} {cell[:_LONGEST_SHOWN]!r}" for name, cell in row.values.items())
        raise InvalidRequestError(f"Line {row.number} is not valid. {error.message}", f"{shown}: {cells}") from None
