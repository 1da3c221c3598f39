"""A file of queries against Orthanc and DCMTK: every row has what that PACS holds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.command import Terminal
from tests.support.dicom_files import CHINESE_NAME, study_uid, write, write_series
from tests.support.worklists import scheduled

STUDIES = 30


def asked_of(terminal: Terminal, peer: peers.Peer, directory: Path) -> None:
    """Send studies, then ask for each patient twice, for a name, and for somebody who is not there."""
    for number in range(1, STUDIES + 1):
        write_series(directory / f"files/{number}", 2, study=number, patient_id=f"P{number}", rows=2)
    # One part, so over one association at a time: dcmqrscp loses instances otherwise.
    sent = terminal.run("send-dir", "--dir", directory / "files", "--files-per-task", 1000, *peer.options)
    assert sent.code == 0, sent
    patients = [f"P{number}" for number in range(1, STUDIES + 1)] * 2
    rows = [*(f"{each};" for each in patients), "NOBODY;", f"P7;{CHINESE_NAME[0]}*"]
    path = directory / "patients.csv"
    path.write_bytes("\r\n".join(["PatientID;PatientName", *rows]).encode("gb18030"))
    result = terminal.run("query", "--batch", path, "--format", "csv", *peer.options)
    assert result.code == 0, result
    found = [(each["row"], each["PatientID"], each["StudyInstanceUID"]) for each in read(result.stdout)]
    expected = [*(int(each[1:]) for each in patients), 7]
    lines = [*range(2, 2 + len(patients)), 3 + len(patients)]
    assert found == [(str(line), f"P{number}", study_uid(number)) for line, number in zip(lines, expected, strict=True)]
    assert {each["PatientName"] for each in read(result.stdout)} == {CHINESE_NAME}
    assert "61 matches for 62 rows: 1 without a match." in result.stderr
    path.write_text("\n".join(["StudyInstanceUID", *(study_uid(number) for number in range(1, STUDIES + 1))]))
    series = terminal.run("query", "--batch", path, "--level", "SERIES", "--format", "csv", *peer.options)
    assert series.code == 0, series
    assert [(each["row"], each["SeriesInstanceUID"]) for each in read(series.stdout)] == [
        (str(number + 1), f"{study_uid(number)}.1") for number in range(1, STUDIES + 1)
    ]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.dcmtk
def test_a_worklist(terminal: Terminal, tmp_path: Path) -> None:
    """What describes a scheduled step may be a column as well, by its keyword."""
    with peers.wlmscpfs(tmp_path, "WORKLIST", "-csk") as peer:
        for number, modality in enumerate(("CT", "MR", "CT"), 1):
            write(
                scheduled(number, CHINESE_NAME, "GB18030", modality, f"2024011{number}"),
                peer.directory / f"{number}.wl",
            )
        path = tmp_path / "worklist.csv"
        path.write_text("Modality,ScheduledProcedureStepStartDate\nCT,\nMR,20240101-20240131\nCT,20240113\nUS,\n")
        options = ("--worklist", "--charset", "GB18030", "--format", "csv")
        result = terminal.run("query", "--batch", path, *options, *peer.options)
    assert result.code == 0, result
    found = [(each["row"], each["PatientID"], each["PatientName"]) for each in read(result.stdout)]
    expected = [("2", "P1"), ("2", "P3"), ("3", "P2"), ("4", "P3")]
    assert sorted(found) == [(*each, CHINESE_NAME) for each in expected]
    assert "4 matches for 4 rows: 1 without a match." in result.stderr


@pytest.mark.orthanc
def test_orthanc(terminal: Terminal, orthanc: peers.Orthanc, tmp_path: Path) -> None:
    asked_of(terminal, orthanc, tmp_path)


@pytest.mark.dcmtk
def test_dcmqrscp(terminal: Terminal, dcmqrscp: peers.Directory, tmp_path: Path) -> None:
    asked_of(terminal, dcmqrscp, tmp_path)
