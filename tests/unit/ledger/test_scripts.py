"""The Lua scripts: each file is used, describes itself, and becomes whole when it is read."""

from __future__ import annotations

import re

import pytest

from pacs_tasks.ledger.scripts import source
from tests.support.processes import ROOT

FILES = sorted((ROOT / "pacs_tasks").glob("*/lua/*.lua"))
_RUN = re.compile(r"""(?:\bself\._(?:scripts\.)?run|Scripts\(.*?\)\.run)\(\s*"(\w+)""")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_script_is_read_with_what_it_includes(path: object) -> None:
    """No include is left, and the first line is a comment."""
    room, name = re.search(r"(\w+)/lua/(\w+)\.lua$", str(path)).groups()  # type: ignore[union-attr]
    text = source(room, name)
    assert text.startswith("-- ")
    assert "-- include" not in text


def test_each_script_is_run_or_included() -> None:
    """And each that is run or included exists: reading it would fail otherwise."""
    used = set()
    for room in ("ledger", "fleet"):
        for path in (ROOT / "pacs_tasks" / room).glob("*.py"):
            used |= {(room, name) for name in _RUN.findall(path.read_text())}
    for path in FILES:
        used |= set(re.findall(r"^-- include (\w+)/(\w+)$", path.read_text(), re.MULTILINE))
    assert used == {(path.parts[-3], path.stem) for path in FILES}
