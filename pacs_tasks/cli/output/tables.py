"""What every table looks like."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pacs_tasks.cli.output.terminal import plain
from pacs_tasks.outcome import Category

STYLES = {
    Category.SUCCESS: "green",
    Category.WARNING: "yellow",
    Category.PARTIAL: "yellow",
    Category.FAILED: "red",
    Category.CANCELLED: "yellow",
}


def new_table(*columns: str) -> Table:
    """A table whose cells fold rather than lose text."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def facts(rows: Iterable[tuple[str, str, str]]) -> Table:
    """Name, value and style, one row each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value, style in rows:
        table.add_row(name, Text(plain(value), style=style))
    return table
