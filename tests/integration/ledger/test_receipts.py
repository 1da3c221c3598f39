"""Receipts: one for each line of a manifest, in its order, whatever came first."""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import (
    InvalidRequestError,
    JobNotFoundError,
    PacsClient,
    Receipt,
    RetrieveRequest,
    StoreDirectoryRequest,
)
from pacs_tasks.connection import connect
from pacs_tasks.dimse.status import store_status
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.ledger.receipts import receipts_of
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import EchoRequest
from pacs_tasks.testing import Faults, Report, TestPACS
from tests.support.callers import series
from tests.support.command import Terminal
from tests.support.dicom_files import data_set, study_uid, write_series, write_text
from tests.support.ports import free_port
from tests.support.waiting import wait_until

PLAIN = store_status(0x0000)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A ledger for one test."""
    client = connect(redis_url, 3)
    yield Ledger(client)
    client.close()


def _outcome(number: int) -> InstanceOutcome:
    """Outcomes of every kind, and of five series."""
    kind = [InstanceCategory.SUCCESS, InstanceCategory.SUCCESS, InstanceCategory.WARNING, InstanceCategory.FAILED][
        number % 4
    ]
    done = kind in {InstanceCategory.SUCCESS, InstanceCategory.WARNING}
    return InstanceOutcome(
        subject=f"/data/{number}",
        category=kind,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.2.{number}",
        study_uid=f"1.3.{number % 5 // 2}" if done else "",
        series_uid=f"1.4.{number % 5}" if done else "",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        status=PLAIN if kind is InstanceCategory.SUCCESS else None,
        reason="" if kind is InstanceCategory.SUCCESS else "for a reason",
        size=number,
        sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        attempts=1 + number % 2,
        begun=1_700_000_000.125 + number,
        ended=1_700_000_000.5 + number,
        worker="worker@host",
    )


def test_receipts_come_in_the_order_of_the_manifest(ledger: Ledger) -> None:
    """Whatever was recorded first. A line without an outcome has a receipt that shows it."""
    total = 2_500
    ledger.open("job", StoreDirectoryRequest.task, StoreDirectoryRequest(directory="/data"))
    ledger.manifest.plan("job", (FileLine(f"/data/{number}", number) for number in range(total)), "a")
    order = [number for number in range(total) if number % 7]
    random.Random(3).shuffle(order)
    for number in order:
        ledger.record("job", number, _outcome(number))
    lines = list(Instances(ledger, "job").in_order())
    assert [line.number for line in lines] == list(range(total))
    assert [line.outcome for line in lines] == [_outcome(number) if number % 7 else None for number in range(total)]
    assert Instances(ledger, "job").receipt_count() + len(ledger.problems("job")) == len(order)
    receipts = list(receipts_of(ledger, "job"))
    assert [each.path for each in receipts] == [f"/data/{number}" for number in range(total)]
    assert receipts[0] == Receipt(path="/data/0", category="none")
    assert receipts[1].begun == "2023-11-14T22:13:21.125+00:00"
    assert receipts[1].status == "0000"
    assert (receipts[3].category, receipts[3].status, receipts[3].reason) == ("failed", "", "for a reason")


def test_studies_and_series_are_kept_once(ledger: Ledger) -> None:
    """However many instances they have."""
    ledger.open("job", StoreDirectoryRequest.task, StoreDirectoryRequest(directory="/data"))
    ledger.manifest.plan("job", (FileLine(f"/data/{number}", number) for number in range(200)), "a")
    for number in range(200):
        ledger.record("job", number, _outcome(number))
    assert sorted(ledger.series("job").values()) == [(f"1.3.{number // 2}", f"1.4.{number}") for number in range(5)]
    texts = ledger.client.lrange("pacs_tasks:job:job:receipts", 0, -1)
    assert "1.4.3" not in str(texts)


def test_a_receipt_shows_what_was_sent(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The digest is that of the bytes that the PACS holds; the times have a zone and are in order."""
    paths = write_series(tmp_path, 5)
    write_text(tmp_path / "report.txt")
    pacs.faults = Faults(store_status={"2.25.314159265358979.1.1.1000002": 0xA700}, store_status_times=1)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path)))
    before = datetime.datetime.now(datetime.UTC)
    job.wait(60)
    receipts = list(job.receipts())
    assert [each.path for each in receipts] == [*map(str, paths), str(tmp_path / "report.txt")]
    for receipt, path in zip(receipts, paths, strict=False):
        held = pacs.instances[receipt.sop_instance_uid]
        assert receipt.sha256 == hashlib.sha256(held.data_set).hexdigest() == hashlib.sha256(data_set(path)).hexdigest()
        assert (receipt.sop_class_uid, receipt.transfer_syntax_uid) == (held.sop_class_uid, held.transfer_syntax_uid)
        assert (receipt.study_uid, receipt.series_uid) == (study_uid(), f"{study_uid()}.1")
        assert (receipt.category, receipt.status, receipt.bytes) == ("success", "0000", path.stat().st_size)
        begun, ended = (datetime.datetime.fromisoformat(each) for each in (receipt.begun, receipt.ended))
        assert before - datetime.timedelta(seconds=5) < begun <= ended <= datetime.datetime.now(datetime.UTC)
        assert receipt.worker
    assert [each.attempts for each in receipts] == [1, 2, 1, 1, 1, 0]
    assert (receipts[-1].category, receipts[-1].sha256) == ("skipped", "")
    assert [each.sop_instance_uid for each in job.instances()] == [each.sop_instance_uid for each in receipts]


def test_a_retrieve_has_receipts_too(client: PacsClient, tmp_path: Path) -> None:
    """The path of each instance, or that it is missing."""
    with TestPACS(instances=series(4)) as pacs:
        lost = sorted(pacs.instances)[2]
        pacs.faults = Faults(lost=[lost])
        request = RetrieveRequest(remote=pacs.remote, study_uid=study_uid(), output_dir=str(tmp_path), method="get")
        job = client.enqueue(request)
        job.wait(60)
        receipts = {each.sop_instance_uid: each for each in job.receipts()}
        assert list(receipts) == sorted(pacs.instances)
    assert receipts[lost].category == "missing"
    assert receipts[lost].path == ""
    del receipts[lost]
    for uid, receipt in receipts.items():
        assert Path(receipt.path) == tmp_path / study_uid() / f"{study_uid()}.1" / f"{uid}.dcm"
        assert Path(receipt.path).stat().st_size == receipt.bytes
        assert (receipt.category, receipt.study_uid, receipt.series_uid) == ("success", study_uid(), f"{study_uid()}.1")
        assert receipt.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"


def test_other_jobs_have_no_receipts(client: PacsClient, pacs: TestPACS) -> None:
    """Neither a job without instances nor an unknown job."""
    job = client.enqueue(EchoRequest(remote=pacs.remote))
    job.wait(30)
    with pytest.raises(InvalidRequestError, match="has no receipts"):
        job.receipts()
    with pytest.raises(JobNotFoundError):
        receipts_of(client.ledger, "nothing")


@pytest.fixture
def reported(terminal: Terminal, client: PacsClient, pacs: TestPACS, tmp_path: Path) -> str:
    """The id of a job with three successes, a failure and an odd file name."""
    assert terminal.directory.is_dir()
    paths = write_series(tmp_path / "files", 4)
    odd = paths[0].with_name('=1+1,"x"\n.dcm')
    shutil.move(paths[0], odd)
    pacs.faults = Faults(store_status={"2.25.314159265358979.1.1.1000003": 0xC123}, report=Report.SAME_ASSOCIATION)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
    job.wait(60)
    return job.id


def test_csv_is_read_back_as_it_was_written(
    terminal: Terminal, reported: str, client: PacsClient, tmp_path: Path
) -> None:
    """Names with commas, quotes and line ends are quoted (RFC 4180)."""
    result = terminal.run("report", reported, "--format", "csv", "--output", tmp_path / "receipts.csv")
    assert (result.code, result.stdout) == (0, "")
    assert "4 receipts" in result.stderr
    content = (tmp_path / "receipts.csv").read_bytes()
    assert content.count(b"\r\n") == 5
    with (tmp_path / "receipts.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = [each.model_dump() for each in client.job(reported).receipts()]
    assert rows == [{name: str(value) for name, value in each.items()} for each in expected]
    assert [row["status"] for row in rows] == ["0000", "C123", "0000", "0000"]
    assert rows[-1]["path"].endswith('=1+1,"x"\n.dcm')
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_json_lines_are_the_default(terminal: Terminal, reported: str, client: PacsClient) -> None:
    """Each line is an object with every column; nothing goes to stderr."""
    result = terminal.run("report", reported)
    assert (result.code, result.stderr) == (0, "")
    receipts = [Receipt(**json.loads(line)) for line in result.stdout.splitlines()]
    assert receipts == list(client.job(reported).receipts())


def test_the_report_names_its_file_in_json(terminal: Terminal, reported: str, tmp_path: Path) -> None:
    """Without a file there would be many JSON documents on stdout: that is an error."""
    result = terminal.run("report", reported, "--json", "--output", tmp_path / "x.jsonl")
    assert result.json == {"job_id": reported, "receipts": 4, "output": str(tmp_path / "x.jsonl"), "exit_code": 0}
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 4
    result = terminal.run("report", reported, "--json")
    assert result.code == result.json["exit_code"] == 2


def test_a_report_that_cannot_be_written_leaves_nothing(terminal: Terminal, reported: str, tmp_path: Path) -> None:
    """A missing directory, a directory instead of a file, and an unknown job."""
    for output in (tmp_path / "nowhere" / "x.csv", tmp_path):
        result = terminal.run("report", reported, "--output", output)
        assert result.code == 1
        assert "cannot be written" in result.stderr
    assert terminal.run("report", "nothing", "--output", tmp_path / "x.csv").code == 7
    assert not (tmp_path / "x.csv").exists()


def test_a_report_without_receipts_says_why(terminal: Terminal, tmp_path: Path) -> None:
    """Nothing on stdout, and a sentence."""
    write_series(tmp_path / "files", 1)
    assert terminal.run("send-dir", "--dir", tmp_path / "files", "--port", free_port()).code == 4
    result = terminal.run("report", "last")
    assert (result.code, result.stdout) == (0, "")
    assert "There are no receipts: job " in result.stderr


def test_a_report_goes_into_a_pipe(terminal: Terminal, reported: str, tmp_path: Path) -> None:
    """A pipe is not replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    came: list[str] = []
    reading = threading.Thread(target=lambda: came.append(pipe.read_text()))
    reading.start()
    assert terminal.run("report", reported, "--output", pipe).code == 0
    reading.join(10)
    assert len(came[0].splitlines()) == 4
    assert pipe.is_fifo()


def test_a_running_job_has_receipts_for_finished_files(
    client: PacsClient, terminal: Terminal, pacs: TestPACS, tmp_path: Path
) -> None:
    """The others have none yet."""
    write_series(tmp_path / "files", 30)
    pacs.faults = Faults(hold_instances_after=5)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
    wait_until(lambda: job.progress().counters.success, 30, "the first instance")
    lines = terminal.run("report", job.id).stdout.splitlines()
    job.cancel()
    categories = [json.loads(line)["category"] for line in lines]
    assert len(categories) == 30
    assert set(categories) == {"success", "none"}
    job.wait(30)


def test_the_verify_command_queries_the_pacs_of_the_job(
    terminal: Terminal, reported: str, client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """Options name another PACS; the environment does not."""
    elsewhere = Terminal(terminal.directory, terminal.redis_url, (("PACS_TASKS_PORT", "1"),))
    result = elsewhere.run("verify", reported)
    assert result.code == 0, str(result)
    assert "Held    3" in result.stdout
    pacs.lose(sorted(pacs.instances)[0])
    result = terminal.run("verify", reported, "--json")
    assert (result.code, result.json["held"], result.json["missing"]) == (3, 2, 1)
    assert result.json["problems"][0]["subject"].startswith(str(tmp_path))
    assert terminal.run("verify", reported, "--port", 1).code == 4
    assert terminal.run("verify", "nothing").code == 7
    with TestPACS("MIRROR") as mirror:
        result = terminal.run("verify", reported, "--port", mirror.port, "--pacs-ae-title", "MIRROR")
        assert result.code == 1
        assert "Missing  3" in result.stdout
        assert mirror.identifiers
    job_id = terminal.run("verify", reported, "--detach").stdout.strip()
    assert terminal.run("wait", job_id).code == 3
    assert client.job(job_id).request().task == "pacs_tasks.verify"


def test_the_verify_command_requests_commitment(terminal: Terminal, reported: str, pacs: TestPACS) -> None:
    """Exit code 0 if the PACS commits to all instances, 6 if it has not reported yet."""
    result = terminal.run("verify", reported, "--commit")
    assert result.code == 0, str(result)
    assert "Committed  3" in result.stdout
    pacs.faults = Faults(report=Report.NEVER)
    result = terminal.run("verify", reported, "--commit", "--commit-timeout", "0.2")
    assert result.code == 6, str(result)
    assert "Pending    3" in result.stdout
    assert "pacs-tasks receiver" in result.stderr or "knows the receiver" in result.stderr
    lines = [json.loads(line) for line in terminal.run("report", reported).stdout.splitlines()]
    assert [each["commitment"] for each in lines] == ["committed", "", "committed", "committed"]
