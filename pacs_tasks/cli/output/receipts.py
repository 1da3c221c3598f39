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

    all_receipts = counted()
    chunks = iter(lambda: list(islice(all_receipts, _CHUNK)), [])
    if output_format == "csv":
        _write_csv(chunks, output, terminal)
    elif output is None:
        for chunk in chunks:
            terminal.json_text(_json_lines(chunk))
    else:
        with _file(output) as write:
            for chunk in chunks:
                write(_json_lines(chunk))
    return count


def _json_lines(receipts: Iterable[Receipt]) -> str:
    return "".join(json.dumps(receipt.model_dump(), ensure_ascii=False) + "\n" for receipt in receipts)


def _write_csv(chunks: Iterable[list[Receipt]], output: str | None, terminal: Terminal) -> None:
    """Write a line of names, then one for each receipt."""

    def rows() -> Iterator[list[Iterable[object]]]:
        yield [Receipt.model_fields]
        for chunk in chunks:
            yield [each.model_dump().values() for each in chunk]

    if output is None:
        for each in rows():
            terminal.rows(each)
        return
    with _file(output) as write:
        write(BOM if terminal.excel else "")
        for each in rows():
            write(csv_lines(each, excel=terminal.excel))


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
