"""``pacs-tasks query`` as a process: its output, its advice about incomplete answers, and its exit codes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from pydicom import Dataset

from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, peers, worklists
from tests.support.command import Result, Terminal


def peer(pacs: TestPACS) -> tuple[str, ...]:
    """How the command line names it."""
    return ("--ip", pacs.host, "--port", str(pacs.port), "--pacs-ae-title", pacs.ae_title)


def talk(result: Result) -> str:
    return " ".join(result.stderr.split())


def _studies(count: int) -> list[Dataset]:
    """This many studies, one for each day."""
    found: list[Dataset] = []
    for number in range(count):
        ds = dicom_files.instance(study=number, patient_id=f"P{number}", patient_name="A^B", charset="", rows=1)
        ds.StudyDate = f"2023{number // 28 + 1:02}{number % 28 + 1:02}"
        del ds.PixelData, ds.StudyDescription
        found.append(ds)
    return found


def test_a_capped_answer_is_told_and_split(terminal: Terminal) -> None:
    """A round number gets advice on stderr and in JSON. --split-dates finds the rest and reports the split."""
    with TestPACS(instances=_studies(240), faults=Faults(most_matches=100)) as pacs:
        capped = terminal.run("query", "--json", *peer(pacs))
        assert (capped.code, len(capped.json["matches"]), capped.json["doubts"]) == (0, 100, ["round"])
        assert "--split-dates" in capped.json["advice"]
        assert "--split-dates" in capped.stderr
        whole = terminal.run("query", "--split-dates", "--study-date", "20230101-", "--format", "csv", *peer(pacs))
        assert whole.code == 0, whole
        rows = list(csv.DictReader(io.StringIO(whole.stdout)))
        assert {row["PatientID"] for row in rows} == {f"P{number}" for number in range(240)}
        assert "240 matches in" in whole.stderr
        assert "ranges were split: 20230101-" in talk(whole)


def test_an_answer_that_ends_with_a_failure_is_partial(terminal: Terminal) -> None:
    """Exit code 3. The matches, the status and the next step are shown."""
    faults = Faults(most_matches=3, most_matches_status=0xA700)
    with TestPACS(instances=_studies(5), faults=faults) as pacs:
        cut_off = terminal.run("query", *peer(pacs))
        assert cut_off.code == 3, cut_off
        assert "P2" in cut_off.stdout
        assert "3 matches in" in cut_off.stderr
        assert "A700" in cut_off.stderr
        assert "--split-dates" in talk(cut_off)
        pacs.faults = Faults(most_matches=3, most_matches_status=0xA700, all_or_nothing=True)
        refused = terminal.run("query", *peer(pacs))
        assert (refused.code, refused.stdout) == (1, "")
        assert "--split-dates" in talk(refused)


def test_keys_that_the_pacs_refuses_are_told(terminal: Terminal) -> None:
    """The matches come without them, with exit code 0, and stderr and JSON name them."""
    with TestPACS(instances=_studies(2), faults=Faults(unknown_keys=["StudyDescription"])) as pacs:
        result = terminal.run("query", *peer(pacs))
        assert result.code == 0, result
        assert "P1" in result.stdout
        assert "The PACS refused some keys, so the query left out" in talk(result)
        assert "StudyDescription" in talk(result)
        assert "StudyDescription" in terminal.run("query", "--json", *peer(pacs)).json["keys_left_out"]


def test_the_root_the_charset_and_lists_of_uids_reach_the_pacs(terminal: Terminal) -> None:
    """--root chooses the model, --charset names (0008,0005), --study-uid may be repeated or hold a backslash."""
    with TestPACS(instances=_studies(4)) as pacs:
        uids = [dicom_files.study_uid(number) for number in range(3)]
        result = terminal.run(
            "query", "--root", "patient", "--study-uid", uids[0], "--study-uid", "\\".join(uids[1:]),
            "--charset", "GBK", "--format", "csv", *peer(pacs),
        )  # fmt: skip
        assert result.code == 0, result
        assert {row["StudyInstanceUID"] for row in csv.DictReader(io.StringIO(result.stdout))} == set(uids)
        assert pacs.identifiers[-1].SpecificCharacterSet == "GBK"
        pacs.faults = Faults(refused_sop_classes=["1.2.840.10008.5.1.4.1.2.2.1"])
        assert terminal.run("query", "--root", "patient", *peer(pacs)).code == 0
        assert terminal.run("query", *peer(pacs)).code == 0
        assert "Leave out --root" in talk(terminal.run("query", "--root", "study", *peer(pacs)))


def test_a_dotted_key_has_a_column_of_its_own(terminal: Terminal) -> None:
    """An attribute in a sequence is shown beside the others. The sequence was sent with one item."""
    [study] = _studies(1)
    with TestPACS(instances=[study]) as pacs:
        key = "RequestAttributesSequence.ScheduledProcedureStepID"
        result = terminal.run("query", "-k", key, "-k", f"{key}=X", "--format", "csv", *peer(pacs))
        assert result.code == 0, result
        assert key in result.stdout.splitlines()[0].split(",")
        [item] = pacs.identifiers[-1].RequestAttributesSequence
        assert item.ScheduledProcedureStepID == "X"


def test_a_date_that_cannot_be_split_is_one_sentence(terminal: Terminal, pacs: TestPACS) -> None:
    """Exit code 2, before any association."""
    result = terminal.run("query", "-k", "StudyDate=2023*", "--split-dates", *peer(pacs))
    assert result.code == 2, result
    assert "Only a day or a range of days can be split" in talk(result)
    assert not pacs.associations


@pytest.mark.dcmtk
def test_a_worklist_is_printed_and_narrowed(terminal: Terminal, tmp_path: Path) -> None:
    """As a table with a column for each part of the step, and as CSV; --study-date is the scheduled one."""
    with peers.wlmscpfs(tmp_path, "WORKLIST", "-csk") as peer:
        worklists.fill(
            peer.directory,
            worklists.scheduled(1, dicom_files.CHINESE_NAME, "GB18030", "CT", "20240115"),
            worklists.scheduled(2, "SMITH^JOHN", "ISO_IR 100", "MR", "20240116"),
        )
        table = terminal.run("query", "--worklist", "--study-date", "20240115", "--modality", "CT", *peer.options)
        assert table.code == 0, table
        for text in ("Scheduled Date", "Modality", "Station", "Step ID"):
            assert text in table.stdout
        for text in ("P1", dicom_files.CHINESE_NAME, "20240115", "093000", "CT1", "CHEST", "S1", "A1"):
            assert text in table.stdout
        assert "P2" not in table.stdout
        lines = terminal.run(
            "query", "--worklist", "--patient-name", "SMITH*", "-k", "ScheduledStationName", "--format", "csv",
            *peer.options,
        )  # fmt: skip
        [entry] = csv.DictReader(io.StringIO(lines.stdout))
        assert entry["ScheduledProcedureStepSequence.ScheduledStationName"] == "ROOM2"
        assert entry["ScheduledProcedureStepSequence.Modality"] == "MR"
