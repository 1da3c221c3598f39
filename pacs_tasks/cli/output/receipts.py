"""Receipts as JSON lines or CSV, on stdout or in a file."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from pacs_tasks.cli.output.terminal import Terminal
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.receipts import Receipt

#: Receipts in one write.
_CHUNK = 1_000

Write = Callable[[str], object]


def write_receipts(receipts: Iterable[Receipt], output_format: str, output: str | None, terminal: Terminal) -> int:
    """Write receipts to the file ``output``, or to stdout.

    Returns
    -------
    int
        The number of receipts.

    Raises
    ------
    PacsTasksError
        If the file cannot be written.
    """
    count = 0

    def counted() -> Iterator[Receipt]:
        nonlocal count
        for receipt in receipts:
            count += 1
            yield receipt

    lines = _csv(counted()) if output_format == "csv" else _json_lines(counted())
    if output is None:
        _write(lines, terminal.write)
    else:
        with _file(output) as write:
            _write(lines, write)
    return count


def _json_lines(receipts: Iterable[Receipt]) -> Iterator[str]:
    for receipt in receipts:
        yield json.dumps(receipt.model_dump(), ensure_ascii=False) + "\n"


def _csv(receipts: Iterable[Receipt]) -> Iterator[str]:
    """RFC 4180: a line of names, then one line for each receipt."""
    yield _csv_line(Receipt.model_fields)
    for receipt in receipts:
        yield _csv_line(receipt.model_dump().values())


def _csv_line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _write(lines: Iterator[str], write: Write) -> None:
    while chunk := "".join(islice(lines, _CHUNK)):
        write(chunk)


@contextmanager
def _file(output: str) -> Iterator[Write]:
    """Write to a file that gets its name when it is complete, since nobody could tell half a list from a whole one.

    Raises
    ------
    PacsTasksError
        If it cannot be written.
    """
    target = Path(output).expanduser()
    # A pipe or a device is written to directly.
    direct = target.exists() and not target.is_file()
    path = target if direct else target.parent / f".{secrets.token_hex(8)}.part"
    try:
        try:
            with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                yield file.write
            if not direct:
                path.replace(target)
        except BaseException:
            if not direct:
                path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PacsTasksError(
            f"The receipts cannot be written ({error.strerror}). Free some space, or name another --output.",
            os.fspath(target),
        ) from None
