"""The modality worklist (PS3.4 annex K) of DCMTK's wlmscpfs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import ContextRejectedError
from pacs_tasks.outcome import Category, FindOutcome
from pacs_tasks.request import FindRequest, QueryModel
from pacs_tasks.testing import TestPACS
from tests.support import dicom_files, peers, worklists
from tests.support.queries import find
from tests.support.worklists import scheduled

pytestmark = pytest.mark.dcmtk

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)
_STEPS = "00400100"


@pytest.fixture
def worklist(tmp_path: Path) -> Iterator[peers.Directory]:
    """Three steps: two with Chinese names, in GB18030 and in UTF-8, one with an English one."""
    with peers.wlmscpfs(tmp_path, "WORKLIST", "-csk") as peer:
        worklists.fill(
            peer.directory,
            scheduled(1, dicom_files.CHINESE_NAME, "GB18030", "CT", "20240115"),
            scheduled(2, dicom_files.CHINESE_NAME, "ISO_IR 192", "MR", "20240116"),
            scheduled(3, "SMITH^JOHN", "ISO_IR 100", "CT", "20240117"),
        )
        yield peer


def _asked(peer: peers.Peer, charset: str | None = None, **keys: str) -> FindOutcome:
    request = FindRequest(remote=peer.remote, query_model=QueryModel.WORKLIST, keys=keys, charset=charset)
    outcome = find(request, LOCAL, PATIENT)
    assert outcome.category in {Category.SUCCESS, Category.WARNING}, outcome.status
    return outcome


def _ids(outcome: FindOutcome) -> list[str]:
    return sorted(match["00100020"]["Value"][0] for match in outcome.matches)


def _step(match: dict[str, Any]) -> dict[str, Any]:
    [step] = match[_STEPS]["Value"]
    return dict(step)


def test_a_worklist_comes_with_what_people_need(worklist: peers.Directory) -> None:
    """Without keys, all steps are returned, each with its patient and procedure."""
    outcome = _asked(worklist)
    assert _ids(outcome) == ["P1", "P2", "P3"]
    [match] = [each for each in outcome.matches if each["00100020"]["Value"] == ["P3"]]
    assert match["00100010"]["Value"] == [{"Alphabetic": "SMITH^JOHN"}]
    assert match["00080050"]["Value"] == ["A3"]
    assert match["00321060"]["Value"] == ["CHEST"]
    step = _step(match)
    said = {tag: step[tag]["Value"][0] for tag in ("00080060", "00400001", "00400002", "00400003", "00400009")}
    assert said == {
        "00080060": "CT", "00400001": "CT1", "00400002": "20240117", "00400003": "093000", "00400009": "S3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"Modality": "CT"}, ["P1", "P3"]),
        ({"00080060": "MR"}, ["P2"]),
        ({"ScheduledProcedureStepSequence.Modality": "MR"}, ["P2"]),
        ({"ScheduledProcedureStepStartDate": "20240116-"}, ["P2", "P3"]),
        ({"ScheduledProcedureStepStartDate": "20240115-20240116", "Modality": "CT"}, ["P1"]),
        ({"ScheduledStationAETitle": "MR1"}, ["P2"]),
        ({"PatientID": "P3"}, ["P3"]),
        ({"AccessionNumber": "A1"}, ["P1"]),
        ({"PatientName": "SMITH*"}, ["P3"]),
        ({"ScheduledPerformingPhysicianName": "DOE*", "Modality": "XA"}, []),
    ],
)
def test_keys_find_their_place(worklist: peers.Directory, keys: dict[str, str], found: list[str]) -> None:
    """Keys of a step go into its sequence, by keyword or tag; others stay outside."""
    assert _ids(_asked(worklist, **keys)) == found


@pytest.mark.parametrize(("charset", "found"), [("GB18030", "P1"), ("ISO_IR 192", "P2")])
def test_chinese_names_come_right_and_are_found(worklist: peers.Directory, charset: str, found: str) -> None:
    """Each name is decoded in the character set of its file; wlmscpfs matches the bytes that it holds."""
    names = [match["00100010"]["Value"][0]["Alphabetic"] for match in _asked(worklist).matches]
    assert sorted(names) == sorted(["SMITH^JOHN", dicom_files.CHINESE_NAME, dicom_files.CHINESE_NAME])
    assert _ids(_asked(worklist, charset, PatientName=dicom_files.CHINESE_NAME)) == [found]
    assert _ids(_asked(worklist, charset, PatientName="张*")) == [found]


def test_a_worklist_that_names_no_charset_is_read_in_the_one_of_the_query(tmp_path: Path) -> None:
    """wlmscpfs omits (0008,0005) from its matches by default."""
    with peers.wlmscpfs(tmp_path) as peer:
        worklists.fill(peer.directory, scheduled(1, dicom_files.CHINESE_NAME, "GB18030"))
        [match] = _asked(peer, "GB18030").matches
    assert "00080005" not in match or not match["00080005"].get("Value")
    assert match["00100010"]["Value"] == [{"Alphabetic": dicom_files.CHINESE_NAME}]


def test_a_pacs_without_a_worklist_says_so(pacs: TestPACS) -> None:
    """It refuses the presentation context; the error says what to do."""
    with pytest.raises(ContextRejectedError, match="does not offer a modality worklist"):
        find(FindRequest(remote=pacs.remote, query_model=QueryModel.WORKLIST), LOCAL, PATIENT)


def test_a_worklist_is_split_by_its_own_dates(tmp_path: Path) -> None:
    """120 steps are queried in halves of their scheduled dates, and each is returned once."""
    with peers.wlmscpfs(tmp_path, "WORKLIST", "-csk") as peer:
        worklists.fill(
            peer.directory, *(scheduled(number, date=f"202401{number % 28 + 1:02}") for number in range(120))
        )
        request = FindRequest(remote=peer.remote, query_model=QueryModel.WORKLIST, split_dates=True)
        outcome = find(request, LOCAL, PATIENT)
    assert _ids(outcome) == sorted(f"P{number}" for number in range(120))
    assert (outcome.category, outcome.doubts) == (Category.SUCCESS, ())
    assert outcome.split
