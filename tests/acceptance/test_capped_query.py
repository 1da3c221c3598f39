"""A PACS that gives 500 matches and calls them all: the command notices, and finds the others if it is asked to.

The rows of ``build/query.md`` come from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

import pytest
from pydicom import Dataset

from pacs_tasks.testing import Faults, TestPACS
from tests.support.command import Result, Terminal
from tests.support.dicom_files import instance
from tests.support.table import Table

_STUDIES: Final = 600
#: Studies of one day.
_EACH_DAY: Final = 4
_CAP: Final = 500

_TABLE: Final = Table(
    "query",
    ("Peer", "What it does", "Command", "Holds", "Matches", "Doubts", "Queries", "Exit code", "Seconds"),
    "<<<>><>>>",
)


def _study(number: int) -> Dataset:
    ds = instance(1, study=number + 1, rows=2)
    ds.StudyDate = (date(2024, 1, 1) + timedelta(number // _EACH_DAY)).strftime("%Y%m%d")
    return ds


@pytest.fixture(scope="module")
def archive() -> Iterator[TestPACS]:
    """A PACS with many studies."""
    with TestPACS("ARCHIVE", instances=map(_study, range(_STUDIES)), faults=Faults(most_matches=_CAP)) as running:
        yield running


def _asked(terminal: Terminal, archive: TestPACS, place: int, *options: str) -> tuple[Result, list[str]]:
    """What a query says, and the studies that it found."""
    command = ["query", "--study-date", "20240101-20241231", *options, "--json"]
    address = ["--ip", archive.host, "--port", archive.port, "--pacs-ae-title", archive.ae_title]
    result = terminal.run(*command, *address)
    found = [match["0020000D"]["Value"][0] for match in result.json["matches"]]
    _TABLE.add(
        place,
        *("TestPACS", f"caps C-FIND at {_CAP}", " ".join(["query", *options]), _STUDIES, len(found)),
        *(", ".join(result.json["doubts"]), result.json["queries"], result.code, f"{result.seconds:.1f}"),
    )
    return result, found


def test_that_a_cap_is_noticed(terminal: Terminal, archive: TestPACS) -> None:
    """So round a number is doubted, and the command says what to do about it."""
    result, found = _asked(terminal, archive, 1)
    assert (result.code, len(found)) == (0, _CAP), str(result)
    assert result.json["doubts"] == ["round"]
    assert "--split-dates" in result.json["advice"]


def test_that_a_limit_is_told_from_a_cap(terminal: Terminal, archive: TestPACS) -> None:
    """The PACS is stopped after so many, and there are more."""
    result, found = _asked(terminal, archive, 2, "--limit", "100")
    assert (result.code, len(found), result.json["limit_hit"]) == (0, 100, True), str(result)
    assert result.json["doubts"] == ["limit"]


def test_that_halves_of_the_dates_find_all(terminal: Terminal, archive: TestPACS) -> None:
    """Each study once, no doubt left, and the ranges that were split are named."""
    result, found = _asked(terminal, archive, 3, "--split-dates")
    assert result.code == 0, str(result)
    held = {str(each.header.StudyInstanceUID) for each in archive.instances.values()}
    assert (len(found), set(found)) == (_STUDIES, held)
    assert result.json["doubts"] == []
    split = result.json["split"]
    assert {each["matches"] for each in split} == {_CAP}
    assert result.json["queries"] == 1 + 2 * len(split)
