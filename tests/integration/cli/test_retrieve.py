"""``retrieve`` as a process: by study, instance and accession number, and in a batch."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from pacs_tasks.testing import Faults, TestPACS
from tests.support.command import Result, Terminal
from tests.support.dicom_files import study_uid

#: Instances in each of the studies 1 to 3.
SIZES = (3, 2, 2)
pytestmark = pytest.mark.holds(*((study, 1, count) for study, count in enumerate(SIZES, 1)))


def uid(study: int, number: int) -> str:
    return f"{study_uid(study)}.1.{1_000_000 + number}"


def retrieve(terminal: Terminal, archive: TestPACS, *arguments: object) -> Result:
    """By C-GET, to the directory ``out``."""
    peer = ("--ip", archive.host, "--port", archive.port, "--pacs-ae-title", archive.ae_title)
    return terminal.run("retrieve", "--output-dir", "out", "--method", "get", *arguments, *peer)


def on_disk(terminal: Terminal) -> set[str]:
    return {path.stem for path in (terminal.directory / "out").rglob("*.dcm")}


def table_of(result: Result) -> str:
    return " ".join(result.stdout.split())


def test_instances_and_accession_numbers(terminal: Terminal, archive: TestPACS) -> None:
    """Instances one by one or with backslashes; all studies of an accession number."""
    named = ("--sop-instance-uid", f"{uid(1, 1)}\\{uid(1, 2)}", "--sop-instance-uid", uid(1, 3))
    result = retrieve(terminal, archive, "--study-uid", study_uid(1), *named, "--json")
    assert result.code == 0, result
    assert [(each["study_uid"], each["promised"], each["proof"]) for each in result.json["studies"]] == [
        (study_uid(1), 3, "instances")
    ]
    assert on_disk(terminal) == {uid(1, number) for number in (1, 2, 3)}
    result = retrieve(terminal, archive, "--accession-number", "A2")
    assert result.code == 0, result
    assert on_disk(terminal) >= {uid(2, 1), uid(2, 2)}


def test_a_batch_shows_what_became_of_each_study(terminal: Terminal, archive: TestPACS) -> None:
    """Problems stand first. Exit code 3 if something was not found, and the same from ``status``."""
    rows = ["studyinstanceuid;AccessionNumber;SOPInstanceUID", f"{study_uid(1)};;{uid(1, 1)}\\{uid(1, 2)}", ";A2;",
            ";NOBODY;"]  # fmt: skip
    (terminal.directory / "studies.csv").write_text("\n".join(rows), "utf-8-sig")
    archive.faults = Faults(unsent=[uid(1, 2)])
    result = retrieve(terminal, archive, "--batch", "studies.csv", "--json")
    assert result.code == 3, result
    studies = result.json["studies"]
    assert [(each["study_uid"], each["category"], each["rows"]) for each in studies] == [
        (study_uid(1), "partial", [2]),
        (study_uid(2), "success", [3]),
        ("", "failed", [4]),
    ]
    status = terminal.run("status", result.json["job_id"])
    assert status.code == 0, status
    shown = table_of(status)
    assert "lists no study with this accession number" in shown, status
    assert shown.index("row 4") < shown.index("(row 2)") < shown.index("(row 3)"), status
    archive.faults = Faults()
    again = terminal.run("retry", result.json["job_id"], "--json")
    assert again.code == 3, again
    assert [each["category"] for each in again.json["studies"]] == ["success", "success", "failed"]
    assert on_disk(terminal) == {uid(1, 1), uid(1, 2), uid(2, 1), uid(2, 2)}


def test_a_retrieve_takes_the_answer_of_a_query(terminal: Terminal, archive: TestPACS) -> None:
    """Through a pipe. The columns without use are named once."""
    peer = ["--ip", archive.host, "--port", str(archive.port), "--pacs-ae-title", archive.ae_title]
    query = [*terminal.entry, "query", "--modality", "ct", "--study-date", "2024-01-15", "--format", "csv", *peer]
    fetch = [*terminal.entry, "retrieve", "--batch", "-", "--output-dir", "out", "--method", "get", *peer]
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(query)} | {shlex.join(fetch)}"],
        env=terminal.environment(),
        cwd=terminal.directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done
    assert on_disk(terminal) == set(archive.instances)
    assert done.stderr.count("does not need these columns and ignores them: PatientName, StudyDate, ") == 1


def test_a_batch_of_which_all_comes_is_done(terminal: Terminal, archive: TestPACS) -> None:
    """Identical rows are one study."""
    (terminal.directory / "studies.csv").write_text(
        "StudyInstanceUID,SeriesInstanceUID\n" + f"{study_uid(3)},{study_uid(3)}.1\n" * 2 + f"{study_uid(2)},\n"
    )
    result = retrieve(terminal, archive, "--batch", "studies.csv")
    assert result.code == 0, result
    assert on_disk(terminal) == {uid(study, number) for study in (2, 3) for number in (1, 2)}
    assert "row 2, 3" in table_of(result)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("StudyInstanceUID\n1.2\nno UID\n", "Line 3 is not valid. Selection is not valid (study_uid"),
        ("SeriesInstanceUID\n1.2\n", "Line 2 is not valid. Selection is not valid"),
        ("AccessionNumber\nA*\n", "Line 2 is not valid. Selection is not valid (accession_number"),
        ("PatientName\n1\n", "No column names what to retrieve"),
        ("", "is empty"),
    ],
)
def test_a_batch_that_cannot_be_meant_is_wrong_usage(
    terminal: Terminal, archive: TestPACS, content: str, sentence: str
) -> None:
    """Exit code 2 and one sentence, which names the line. No association is opened."""
    (terminal.directory / "studies.csv").write_text(content)
    result = retrieve(terminal, archive, "--batch", "studies.csv")
    assert result.code == 2, result
    assert sentence in " ".join(result.stderr.split()), result
    assert archive.associations == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Nothing to retrieve is named"),
        (("--series-uid", "1.2"), "Nothing to retrieve is named"),
        (("--batch", "studies.csv", "--study-uid", "1.2"), "Leave out the other UIDs and numbers"),
        (("--batch", "nothing.csv"), "cannot be read"),
        (("--accession-number", "A?"), "none of them a backslash"),
        (("--study-uid", "1.2", "--sop-instance-uid", "1.2\\x"), "digits and single dots"),
    ],
)
def test_options_that_do_not_go_together_are_told(
    terminal: Terminal, archive: TestPACS, arguments: tuple[str, ...], sentence: str
) -> None:
    """Exit code 2, before anything is enqueued."""
    result = retrieve(terminal, archive, *arguments)
    assert result.code == 2, result
    assert sentence in " ".join(result.stderr.split()), result
