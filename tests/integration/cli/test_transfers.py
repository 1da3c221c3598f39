"""Every exit code of commands as processes, with a real Redis, worker and PACS."""

from __future__ import annotations

import csv
import io
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from pacs_tasks.testing.faults import CALLED_AET_NOT_RECOGNISED
from tests.support import dicom_files
from tests.support.command import PACS_TASKS, Result, Terminal
from tests.support.dicom_files import CHINESE_NAME, data_set, study_uid, write_series
from tests.support.ports import free_port
from tests.support.waiting import wait_until


def peer(pacs: TestPACS) -> tuple[str, ...]:
    """How the command line names it."""
    return ("--ip", pacs.host, "--port", str(pacs.port), "--pacs-ae-title", pacs.ae_title)


def talk(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_echo_answers_under_both_names(terminal: Terminal, pacs: TestPACS) -> None:
    """Exit code 0, and the address of the PACS."""
    for entry in (terminal.entry, PACS_TASKS):
        result = replace(terminal, entry=entry).run("echo", *peer(pacs))
        assert result.code == 0, result
        assert "TESTPACS at" in result.stdout
    assert pacs.calling_aets == ["PYNETDICOM", "PYNETDICOM"]


def test_sending_a_directory_tells_what_was_sent_and_what_was_not(
    terminal: Terminal, pacs: TestPACS, tmp_path: Path
) -> None:
    """Files that are not DICOM are listed and do not count as failures."""
    files = write_series(tmp_path / "files", 3)
    dicom_files.write_text(tmp_path / "files" / "text.dcm")
    result = terminal.run("send-dir", "--dir", tmp_path / "files", *peer(pacs))
    assert result.code == 0, result
    assert "text.dcm" in result.stdout
    assert {each.data_set for each in pacs.instances.values()} == {data_set(path) for path in files}
    log = (terminal.directory / "dicom_transfer.log").read_text()
    assert " - INFO - send-dir to TESTPACS at" in log
    assert str(tmp_path) not in log


def test_a_relative_path_is_that_of_the_caller(terminal: Terminal, pacs: TestPACS) -> None:
    """It is not relative to the worker, which runs elsewhere."""
    write_series(terminal.directory / "here", 1)
    assert terminal.run("send-file", "--file", "here/000001.dcm", *peer(pacs)).code == 0
    assert terminal.run("send-dir", "--dir", "here", *peer(pacs)).code == 0
    assert len(pacs.stores) == 2


def test_a_dry_run_sends_nothing(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """It asks the PACS what it accepts."""
    write_series(tmp_path / "files", 3)
    result = terminal.run("send-dir", "--dir", tmp_path / "files", "--dry-run", "--json", *peer(pacs))
    assert result.code == 0, result
    assert [(pair["count"], pair["accepted"]) for pair in result.json["pairs"]] == [(3, True)]
    pacs.faults = Faults(refused_sop_classes=["1.2.840.10008.5.1.4.1.1.2"])
    assert terminal.run("send-dir", "--dir", tmp_path / "files", "--dry-run", *peer(pacs)).code == 1
    assert pacs.stores == []


def test_a_refusal_of_some_is_partial_and_of_all_a_failure(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """Exit codes 3 and 1. The advice names the job to retry, and a retry sends only the rest."""
    write_series(tmp_path / "files", 3)
    refused = f"{study_uid()}.1.1000002"
    pacs.faults = Faults(store_status={refused: 0xA900})
    result = terminal.run("send-dir", "--dir", tmp_path / "files", "--json", *peer(pacs))
    assert result.code == result.json["exit_code"] == 3, result
    assert [Path(each["subject"]).name for each in result.json["problems"]] == ["000002.dcm"]
    job_id = result.json["job_id"]
    assert f"retry {job_id}" in talk(result)

    pacs.faults = Faults()
    stores = len(pacs.stores)
    retried = terminal.run("retry", job_id)
    assert retried.code == 0, retried
    assert pacs.stores[stores:] == [refused]

    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA900})
    failed = terminal.run("send-dir", "--dir", tmp_path / "files", *peer(pacs))
    assert failed.code == 1, failed
    assert "A900" in failed.stdout
    assert "valid DICOM" in talk(failed)


def test_a_warning_is_counted_and_no_failure(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """Exit code 0."""
    write_series(tmp_path / "files", 2)
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xB000})
    result = terminal.run("send-dir", "--dir", tmp_path / "files", "--json", *peer(pacs))
    assert result.code == 0, result
    assert result.json["counters"]["warning"] == 2


def test_input_that_cannot_be_read_is_exit_code_2(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """One sentence each that names the path."""
    text = dicom_files.write_text(tmp_path / "text.dcm")
    for arguments in (
        ("send-file", "--file", text),
        ("send-file", "--file", tmp_path / "none.dcm"),
        ("send-dir", "--dir", tmp_path / "none"),
    ):
        result = terminal.run(*arguments, *peer(pacs))
        assert result.code == 2, result
        assert result.stdout == ""
        assert result.stderr.count("Error: ") == 1
        assert str(arguments[-1]) in result.stderr
    log = (terminal.directory / "dicom_transfer.log").read_text()
    assert " - ERROR - " in log
    assert str(tmp_path) not in log


def test_an_unreachable_or_refusing_pacs_is_exit_code_4(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """One sentence with advice, whatever the operation is."""
    write_series(tmp_path / "files", 1)
    asked: tuple[tuple[object, ...], ...] = (
        ("echo",),
        ("send-file", "--file", tmp_path / "files" / "000001.dcm"),
        ("query", "--patient-id", "P12345"),
        ("retrieve", "--study-uid", study_uid(), "--output-dir", tmp_path / "out"),
    )
    pacs.faults = Faults(rejection=CALLED_AET_NOT_RECOGNISED)
    for arguments in asked:
        refused = terminal.run(*arguments, *peer(pacs))
        assert refused.code == 4, refused
        assert "--pacs-ae-title" in refused.stderr
    for arguments in asked[:1]:
        unreachable = terminal.run(*arguments, "--port", free_port())
        assert unreachable.code == 4, unreachable
        assert "Check the address and port" in talk(unreachable)


def test_a_query_prints_matches_as_table_csv_and_json(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """Chinese names are not changed."""
    files = write_series(tmp_path / "files", 2)
    with TestPACS(instances=files) as filled:
        table = terminal.run("query", "--patient-name", CHINESE_NAME, *peer(filled))
        assert table.code == 0, table
        assert CHINESE_NAME in table.stdout
        lines = terminal.run("query", "--study-date", "20240101-", "--format", "csv", *peer(filled))
        rows = list(csv.DictReader(io.StringIO(lines.stdout)))
        assert [(row["PatientName"], row["StudyInstanceUID"]) for row in rows] == [(CHINESE_NAME, study_uid())]
        document = terminal.run(
            "query", "--level", "IMAGE", "--study-uid", study_uid(), "--limit", "1", "--format", "json", *peer(filled)
        )
        assert document.json["limit_hit"] is True
        assert len(document.json["matches"]) == 1
        more = terminal.run("query", "-k", "PatientBirthDate", "--format", "csv", *peer(filled))
        assert "19700101" in more.stdout


def test_a_query_without_a_match_succeeds_and_one_that_is_refused_fails(terminal: Terminal, pacs: TestPACS) -> None:
    """Exit codes 0 and 1, each with what to check."""
    nothing = terminal.run("query", "--patient-id", "NOBODY", *peer(pacs))
    assert (nothing.code, nothing.stdout) == (0, "")
    assert "wider criteria" in nothing.stderr
    pacs.faults = Faults(find_status=0xC001)
    refused = terminal.run("query", *peer(pacs))
    assert refused.code == 1, refused
    assert "C001" in refused.stderr


def test_a_study_comes_back_whole_or_partial(terminal: Terminal, tmp_path: Path) -> None:
    """Exit codes 0, 3, and 1 for a study that the PACS does not list."""
    files = write_series(tmp_path / "files", 3)
    arguments = ("retrieve", "--study-uid", study_uid(), "--method", "get")
    with TestPACS(instances=files) as pacs:
        whole = terminal.run(*arguments, "--output-dir", tmp_path / "whole", *peer(pacs))
        assert whole.code == 0, whole
        received = sorted((tmp_path / "whole").rglob("*.dcm"))
        assert [data_set(path) for path in received] == [data_set(path) for path in files]
        lost = f"{study_uid()}.1.1000002"
        pacs.faults = Faults(lost=[lost])
        partial = terminal.run(*arguments, "--output-dir", tmp_path / "partial", *peer(pacs))
        assert partial.code == 3, partial
        assert lost in partial.stdout
        unknown = terminal.run("retrieve", "--study-uid", "1.2.3.4", "--output-dir", tmp_path / "out", *peer(pacs))
        assert unknown.code == 1, unknown
        assert "Study Instance UID" in unknown.stderr


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A directory that takes a while."""
    write_series(tmp_path / "slow", 400)
    return tmp_path / "slow"


def test_ctrl_c_cancels_the_job_and_retry_sends_the_rest(terminal: Terminal, pacs: TestPACS, slow: Path) -> None:
    """Exit code 5. Nothing is sent twice."""
    pacs.faults = Faults(delay=0.05)
    begun = time.monotonic()
    with terminal.starts("send-dir", "--dir", slow, "--json", *peer(pacs)) as popen:
        wait_until(lambda: len(pacs.stores) > 3, 30, "some instances to arrive")
        popen.send_signal(signal.SIGINT)
        result = terminal.finished(popen, begun, 40)
    assert result.code == result.json["exit_code"] == 5, result
    assert result.json["cancelled"] is True
    job_id = result.json["job_id"]
    assert f"pacs-tasks retry {job_id}" in talk(result)
    assert len(pacs.stores) < 400
    pacs.faults = Faults()
    assert terminal.run("retry", job_id).code == 0
    assert len(pacs.stores) == len(set(pacs.stores)) == 400


def test_a_detached_job_is_followed_from_anywhere(terminal: Terminal, pacs: TestPACS, slow: Path) -> None:
    """Only its id is on stdout. It can be shown, waited for and cancelled; a wait after that has exit code 5."""
    # It would never be done: what follows may take its time.
    pacs.faults = Faults(delay=0.05, hold_instances_after=200)
    detached = terminal.run("send-dir", "--dir", slow, "--detach", *peer(pacs))
    job_id = detached.stdout.strip()
    assert detached.stdout == f"{job_id}\n"
    assert detached.code == 0
    wait_until(lambda: len(pacs.stores) > 3, 30, "some instances to arrive")
    status = terminal.run("status", job_id, "--json")
    assert status.code == 0
    assert status.json["job"]["state"] == "running"
    assert status.json["job"]["counters"]["total"] == 400
    impatient = terminal.run("wait", job_id, "--for", "0.1")
    assert impatient.code == 6, impatient
    with terminal.starts("wait", job_id, "--quiet") as popen:
        begun = time.monotonic()
        cancelled = terminal.run("cancel", job_id)
        assert cancelled.code == 0, cancelled
        assert "cancelled" in cancelled.stdout
        assert len(pacs.stores) < 400
        assert terminal.finished(popen, begun, 20).code == 5
    listed = terminal.run("jobs", "--json")
    assert job_id in [job["job_id"] for job in listed.json["jobs"]]
    assert terminal.run("status", job_id).code == 0


def test_ctrl_c_ends_a_wait_and_not_the_job_it_waits_for(terminal: Terminal, pacs: TestPACS, slow: Path) -> None:
    """Somebody else may have enqueued it. Exit code 6: it is not finished."""
    pacs.faults = Faults(delay=0.05, hold_instances_after=200)
    job_id = terminal.run("send-dir", "--dir", slow, "--detach", *peer(pacs)).stdout.strip()
    # The log says when it waits: a Ctrl-C while Python starts would end that.
    begun = time.monotonic()
    with terminal.starts("wait", job_id, "--log-level", "DEBUG") as popen:
        log = terminal.directory / "dicom_transfer.log"
        wait_until(lambda: f"waiting for job {job_id}" in log.read_text(), 30, "the wait to begin")
        popen.send_signal(signal.SIGINT)
        result = terminal.finished(popen, begun, 20)
    assert result.code == 6, result
    assert f"cancel {job_id}" in talk(result)
    assert terminal.run("status", job_id, "--json").json["job"]["cancel_requested"] is False
    assert terminal.run("cancel", job_id).code == 0


def test_no_such_job_is_exit_code_7(terminal: Terminal) -> None:
    """For each command that takes an id."""
    for name in ("status", "wait", "cancel", "retry"):
        result = terminal.run(name, "0" * 32, "--json")
        assert result.code == 7, result
        assert result.json["error"]["type"] == "JobNotFoundError"


def test_quiet_says_nothing(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """When everything is done."""
    shutil.copy(write_series(tmp_path, 1)[0], tmp_path / "one")
    result = terminal.run("--quiet", "send-file", "--file", tmp_path / "one", "--json", *peer(pacs))
    assert (result.code, result.stderr) == (0, "")
    assert result.json["category"] == "success"


def test_a_peer_of_the_settings_file_is_called_by_its_name(terminal: Terminal, pacs: TestPACS) -> None:
    """With its AE title."""
    (terminal.directory / "pacs-tasks.toml").write_text(
        f'[remotes.archive]\nae_title = "{pacs.ae_title}"\nhost = "{pacs.host}"\nport = {pacs.port}\n'
    )
    assert terminal.run("echo", "--remote", "archive").code == 0
    assert terminal.run("--remote", "archive", "echo", "--port", free_port()).code == 4
