"""A file of queries against Orthanc and DCMTK: every row has what that PACS holds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.command import Terminal
from tests.support.dicom_files import CHINESE_NAME, study_uid, write_series

STUDIES = 30


def asked_of(terminal: Terminal, peer: peers.Peer, directory: Path) -> None:
    """Send studies, then ask for each patient twice, for a name, and for somebody who is not there."""
    for number in range(1, STUDIES + 1):
        write_series(directory / f"files/{number}", 2, study=number, patient_id=f"P{number}", rows=2)
    sent = terminal.run("send-dir", "--dir", directory / "files", *peer.options)
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


@pytest.mark.orthanc
def test_orthanc(terminal: Terminal, orthanc: peers.Orthanc, tmp_path: Path) -> None:
    asked_of(terminal, orthanc, tmp_path)


@pytest.mark.dcmtk
def test_dcmqrscp(terminal: Terminal, dcmqrscp: peers.Directory, tmp_path: Path) -> None:
    asked_of(terminal, dcmqrscp, tmp_path)
