"""`query --batch`: a CSV file of queries, and its answers in each format, through pipes."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks.testing import Faults, TestPACS
from tests.support.command import Result, Terminal
from tests.support.dicom_files import CHINESE_NAME, UID_ROOT, study_uid, write_patients
from tests.support.ports import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[TestPACS]:
    """A PACS with 12 studies of one patient each, with names in GB18030."""
    with TestPACS(instances=write_patients(tmp_path / "held", 12)) as running:
        yield running


@pytest.fixture
def file(terminal: Terminal) -> Path:
    """A file of a Chinese Excel: two matches, an unknown name, and a row that a test can let fail."""
    path = terminal.directory / "病人.csv"
    path.write_bytes(
        f"patientid;PatientName;studydate\r\nP1;{CHINESE_NAME};\r\nP2;王*;\r\n;;\r\nP3;;\r\n".encode("gb18030")
    )
    return path


def peer(pacs: TestPACS) -> tuple[str, ...]:
    return ("--ip", pacs.host, "--port", str(pacs.port), "--pacs-ae-title", pacs.ae_title)


def asked(terminal: Terminal, archive: TestPACS, file: Path, *options: object) -> Result:
    return terminal.run("query", "--batch", file, *peer(archive), *options)


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def uid_of(match: Any) -> str:
    return str(match["0020000D"]["Value"][0])


def test_a_table_names_the_row_of_each_match(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """The row is the line of the file. Rows without a match are counted. Exit code 0: every row was answered."""
    result = asked(terminal, archive, file)
    assert result.code == 0, result
    rows = [line.split() for line in result.stdout.splitlines() if UID_ROOT in line]
    assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [
        ("2", "P1", CHINESE_NAME, study_uid(1)),
        ("5", "P3", CHINESE_NAME, study_uid(3)),
    ]
    assert "2 matches for 3 rows: 1 without a match." in result.stderr


def test_csv_begins_with_the_row(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """Then come the keywords. Failed rows are reported on stderr and by exit code 3."""
    archive.faults = Faults(find_statuses={"P3": 0x0122})
    result = asked(terminal, archive, file, "--format", "csv", "-k", "PatientSex")
    assert result.code == 3, result
    found = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(each["row"], each["PatientName"], each["PatientSex"]) for each in found] == [("2", CHINESE_NAME, "O")]
    assert next(iter(found[0])) == "row"
    said = " ".join(result.stderr.split())
    assert "Row 5: 0122" in said
    assert "1 match for 3 rows: 1 without a match, 1 failed." in said
    assert "pacs-tasks retry" in said


def test_json_lines_tell_each_row(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """One object for each match, and one for each row without a match or an answer; nothing else is on stdout."""
    archive.faults = Faults(find_statuses={"P3": 0x0122})
    found = lines(asked(terminal, archive, file, "--format", "jsonl", "--quiet"))
    assert [(each["row"], each["category"]) for each in found] == [(2, "success"), (3, "success"), (5, "failed")]
    assert found[0]["match"]["00100010"]["Value"] == [{"Alphabetic": CHINESE_NAME}]
    assert uid_of(found[0]["match"]) == study_uid(1)
    assert (found[1]["match"], found[2]["match"], found[2]["status"]) == (None, None, "0122")
    assert found[2]["reason"]
    assert "\\u" not in asked(terminal, archive, file, "--format", "jsonl").stdout


def test_json_is_one_document(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """With the counts and the matches of each row. A retry of the job queries the failed row only."""
    archive.faults = Faults(find_statuses={"P3": 0x0122})
    result = asked(terminal, archive, file, "--json")
    document = result.json
    assert (result.code, document["exit_code"], document["category"]) == (3, 3, "partial")
    assert [(each["row"], len(each["matches"])) for each in document["rows"]] == [(2, 1), (3, 0), (5, 0)]
    archive.faults = Faults()
    before = len(archive.identifiers)
    again = terminal.run("retry", document["job_id"], "--json")
    assert (again.code, len(archive.identifiers)) == (0, before + 1)
    assert [len(each["matches"]) for each in again.json["rows"]] == [1, 0, 1]
    waited = terminal.run("wait", document["job_id"])
    assert waited.stdout.count(UID_ROOT) == 2, waited
    shown = terminal.run("status", document["job_id"])
    assert "query --batch" in shown.stdout


def test_all_options_apply_to_every_row(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """Level, limit and further keys; a row that met the limit is a warning."""
    file.write_text("PatientID\nP1*\nP2\n")
    result = asked(terminal, archive, file, "--limit", "2", "--study-date", "20240115", "--json")
    assert result.code == 0, result
    assert [(each["category"], len(each["matches"])) for each in result.json["rows"]] == [
        ("warning", 2),
        ("success", 1),
    ]
    assert "limit of 2" in result.json["rows"][0]["reason"]
    assert {str(each.StudyDate) for each in archive.identifiers} == {"20240115"}
    series = asked(terminal, archive, file, "--level", "SERIES", "--format", "jsonl")
    assert {each["match"]["00080052"]["Value"][0] for each in lines(series)} == {"SERIES"}


def test_no_row_answered_and_nobody_there_differ(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """Exit codes 1 and 4."""
    archive.faults = Faults(find_status=0x0122)
    refused = asked(terminal, archive, file)
    assert refused.code == 1, refused
    assert "Follow the reasons above" in refused.stderr
    assert ["Result", "Row"] in [line.split()[:2] for line in refused.stdout.splitlines()]
    away = terminal.run("query", "--batch", file, "--ip", "127.0.0.1", "--port", free_port())
    assert away.code == 4, away


def test_ctrl_c_keeps_what_was_answered(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """Exit code 5. Rows that were not queried have their own category."""
    file.write_text("PatientID\n" + "P1\n" * 100)
    archive.faults = Faults(delay=0.1)
    with terminal.starts("query", "--batch", file, *peer(archive), "--format", "jsonl") as popen:
        wait_until(lambda: len(archive.identifiers) > 5, 30, "some rows are asked")
        popen.send_signal(signal.SIGINT)
        result = terminal.finished(popen, 0.0)
    assert result.code == 5, result
    categories = [each["category"] for each in lines(result)]
    assert len(categories) == 100
    assert {"success", "not asked"} == set(categories)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("PatientNam\nX\n", "Did you mean PatientName"),
        ("PatientID\n", "no row below"),
        ("PatientID,StudyDate\nP1,31.1.2023\n", "StudyDate in line 2 is not a day or a range of days"),
        ("PatientID\nP1,P2\n", "Line 2 has 2 cells"),
        ("PatientID,00100020\nP1,P2\n", "Two columns are one attribute"),
        ("StudyDate,00080020\nxx,20200101\n", "Two columns are one attribute"),
    ],
)
def test_a_wrong_file_is_told_before_anything_is_asked(
    terminal: Terminal, archive: TestPACS, file: Path, content: str, told: str
) -> None:
    """Exit code 2, one sentence, and a log without the path."""
    file.write_text(content)
    result = asked(terminal, archive, file)
    assert (result.code, archive.associations) == (2, 0), result
    assert told in " ".join(result.stderr.split())
    assert "病人" not in (terminal.directory / "dicom_transfer.log").read_text()


def test_tags_and_dates_may_be_columns(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """As in `-k`."""
    file.write_text("00100020,StudyDate,modalitiesinstudy\nP1,2024-01-01..2024-01-31,ct\nP2,-20240101,\n")
    result = asked(terminal, archive, file, "--json")
    assert [len(each["matches"]) for each in result.json["rows"]] == [1, 0], result


def test_a_batch_can_wait_elsewhere(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """`--detach` prints the id; the same `--key` is the same job, also under another name of the command."""
    first = asked(terminal, archive, file, "--detach", "--key", "this month")
    second = asked(replace(terminal), archive, file, "--detach", "--key", "this month")
    assert first.stdout == second.stdout != ""
    assert terminal.run("wait", first.stdout.strip(), "--json").json["counters"]["success"] == 3


def test_a_charset_is_that_of_every_row(terminal: Terminal, archive: TestPACS, file: Path) -> None:
    """Names are sent in it, whatever the encoding of the file is. A name that it lacks fails its row only."""
    document = asked(terminal, archive, file, "--charset", "GB18030", "--json").json
    assert [len(each["matches"]) for each in document["rows"]] == [1, 0, 1]
    assert {str(each.SpecificCharacterSet) for each in archive.identifiers if each.PatientName} == {"GB18030"}
    latin = asked(terminal, archive, file, "--charset", "ISO_IR 100", "--json")
    assert latin.code == 3, latin
    assert [each["category"] for each in latin.json["rows"]] == ["failed", "failed", "success"]
    assert CHINESE_NAME not in latin.stdout.replace(json.dumps(latin.json["rows"][2], ensure_ascii=False), "")


def test_a_plain_query_waits_for_nobody(terminal: Terminal, archive: TestPACS) -> None:
    """Exit code 2 for an option without effect."""
    result = terminal.run("query", *peer(archive), "--give-up-after", "5")
    assert (result.code, archive.associations) == (2, 0), result
    assert "--give-up-after has no effect without --batch" in result.stderr


def test_a_plain_query_has_json_lines_too(terminal: Terminal, archive: TestPACS) -> None:
    found = lines(terminal.run("query", *peer(archive), "--patient-id", "P1*", "--format", "jsonl"))
    assert sorted(uid_of(each["match"]) for each in found) == sorted(study_uid(each) for each in (1, 10, 11, 12))
