"""The Lua scripts: each file is used, describes itself, and is read with what it includes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pacs_tasks.ledger.keys import source
from tests.support.processes import ROOT

PACKAGE = ROOT / "pacs_tasks"
_RUN = re.compile(r"""(?:\b_run|_scripts\.run|\)\.run)\(\s*"([\w/]+)""")
_INCLUDE = re.compile(r"^-- include (\w+)/([\w/]+)$", re.MULTILINE)


def _named(path: Path) -> tuple[str, str]:
    """Room and name of a script."""
    room, _, *folders = path.relative_to(PACKAGE).with_suffix("").parts
    return room, "/".join(folders)


FILES = {_named(path): path for path in sorted(PACKAGE.glob("*/lua/**/*.lua"))}


@pytest.mark.parametrize("script", FILES, ids="/".join)
def test_a_script_is_read_with_what_it_includes(script: tuple[str, str]) -> None:
    """No include is left, and the first line is a comment."""
    text = source(*script)
    assert text.startswith("-- ")
    assert "-- include" not in text


def test_each_script_is_run_or_included() -> None:
    """And each script that is run or included exists."""
    used = set()
    for room in ("ledger", "fleet"):
        for path in (PACKAGE / room).glob("*.py"):
            used |= {(room, name) for name in _RUN.findall(path.read_text())}
    for path in FILES.values():
        used |= set(_INCLUDE.findall(path.read_text()))
    assert used == FILES.keys()
