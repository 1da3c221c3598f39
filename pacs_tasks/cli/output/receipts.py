"""Receipts as JSON lines or CSV, on stdout or in a file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from pacs_tasks.cli.output.sheet import BOM, csv_lines
from pacs_tasks.cli.output.terminal import Terminal
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.receipts import Receipt

#: Receipts in one write.
_CHUNK = 1_000

Write = Callable[[str], object]
_Rows = Iterable[Iterable[object]]


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
    if output is None:
        return _write(receipts, output_format, terminal.rows, terminal.json_text)
    with _file(output) as write:
        write(BOM if terminal.excel else "")
        return _write(receipts, output_format, lambda rows: write(csv_lines(rows, excel=terminal.excel)), write)


def _write(receipts: Iterable[Receipt], output_format: str, write_rows: Callable[[_Rows], object], write: Write) -> int:
    count, rest = 0, iter(receipts)
    if output_format == "csv":
        write_rows([Receipt.model_fields])
    while chunk := [each.model_dump() for each in islice(rest, _CHUNK)]:
        count += len(chunk)
        if output_format == "csv":
            write_rows(each.values() for each in chunk)
        else:
            write("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in chunk))
    return count


@contextmanager
def _file(output: str) -> Iterator[Write]:
    """Write to a file that gets its name when it is complete, since nobody could tell half a list from a whole one.

    Raises
    ------
    PacsTasksError
        If it cannot be written.
    """
    target = Path(os.path.expanduser(output))
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
