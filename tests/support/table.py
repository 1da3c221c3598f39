"""A table for people of what tests saw: ``build/NAME.md``, whichever process of a run each of them is in."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from tests.support.processes import ROOT

#: The run of all processes of pytest-xdist, else of this one.
_RUN: Final = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid4().hex


@dataclass(frozen=True)
class Table:
    """Rows of one run; those of the run before go with its first."""

    name: str
    headings: tuple[str, ...]
    #: How each column is aligned: ``<`` or ``>``.
    alignment: str
    directory: Path = ROOT / "build"

    @property
    def path(self) -> Path:
        return self.directory / f"{self.name}.md"

    def add(self, place: int, *cells: object) -> None:
        """Write a row, which stands at ``place``; a second one for a place takes that of the first."""
        self.directory.mkdir(exist_ok=True)
        rows_path = self.directory / f"{self.name}.json"
        with (self.directory / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = json.loads(rows_path.read_text("utf-8")) if rows_path.exists() else {}
            rows = kept["rows"] if kept.get("run") == _RUN else {}
            rows[str(place)] = [str(cell) for cell in cells]
            rows_path.write_text(json.dumps({"run": _RUN, "rows": rows}), "utf-8")
            self.path.write_text(self._text([rows[key] for key in sorted(rows, key=int)]), "utf-8")

    def _text(self, rows: Sequence[Sequence[str]]) -> str:
        rules = ["---:" if each == ">" else "---" for each in self.alignment]
        return "".join(f"| {' | '.join(row)} |\n" for row in (self.headings, rules, *rows))
