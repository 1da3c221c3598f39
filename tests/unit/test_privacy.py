"""What this program writes is for its owner, and the text of others steers no terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import privacy
from pacs_tasks.journal.logs import log_plainly
from pacs_tasks.privacy import GroupAccess, directory_mode, keep_private, plain, rotate

STEERING = [
    *("\0", "\a", "\b", "\t", "\n", "\v", "\f", "\r", "\x1b", "\x7f", "\x80", "\x85", "\x9b", "\x9d", "\x9f"),
    *("\u061c", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069"),
]


@pytest.fixture
def umask() -> Iterator[None]:
    """The umask that lets everybody read and write, for a test."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("character", STEERING, ids=ascii)
def test_what_steers_a_terminal_is_shown_as_json_writes_it(character: str) -> None:
    """One of the sequences that a name could hold: a title, a colour, a cursor, a line, another order of reading."""
    shown = plain(f"a{character}b")
    assert shown.isprintable()
    assert json.loads(f'"{shown}"') == f"a{character}b"


@pytest.mark.parametrize("text", ["Zhang^San=张^三", "Müller", "\u0623\u0644\u0641", "a\\b", "x\u200dy", ""])
def test_what_people_write_stays(text: str) -> None:
    """Also in writings from right to left, and where an invisible character joins letters."""
    assert plain(text) == text


def test_a_record_of_a_log_is_one_record() -> None:
    """Its further lines are not mistaken for another one, whoever wrote them."""
    factory, screen, log = logging.getLogRecordFactory(), io.StringIO(), logging.Logger("x")
    log.addHandler(logging.StreamHandler(screen))
    try:
        log_plainly()
        log.warning("from %s", "A\x1b[2J\n2026-01-01 INFO forged\x9b\u202e")
    finally:
        logging.setLogRecordFactory(factory)
    assert screen.getvalue() == "from A\\u001b[2J\n    2026-01-01 INFO forged\\u009b\\u202e\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(
    ("access", "file", "directory"), [("none", 0o600, 0o700), ("read", 0o640, 0o750), ("write", 0o660, 0o770)]
)
def test_files_are_private_whatever_the_umask(tmp_path: Path, access: GroupAccess, file: int, directory: int) -> None:
    """Or for the group as well."""
    assert keep_private(access) == 0
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "directory")]
    assert modes == [file, directory]
    assert directory_mode(access) == directory


def test_a_long_log_begins_anew_and_some_old_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy, "LOG_LIMIT", 5)
    log = tmp_path / "a.log"
    for number in range(6):
        with log.open("a") as file:
            file.write(f"line {number}")
        rotate(log)
    assert not log.exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.log.1": "line 5",
        "a.log.2": "line 4",
        "a.log.3": "line 3",
    }
    log.write_text("short")
    rotate(log)
    assert log.read_text() == "short"
    rotate(tmp_path / "none.log")
