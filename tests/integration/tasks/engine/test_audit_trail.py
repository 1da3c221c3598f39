"""The audit trail of real jobs: who asked for what on which patient, and what came of it; once for each study."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks import FindRequest, JobState, PacsClient, RetrieveRequest, StoreDirectoryRequest
from pacs_tasks.connection import connect
from pacs_tasks.errors import BrokerUnavailableError, PacsTasksError, PeerUnreachableError, SealingError
from pacs_tasks.fleet.audits import Audits
from pacs_tasks.journal.audit import FileSink
from pacs_tasks.ledger.ends import End
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.operations import FIND_QUEUE
from pacs_tasks.outcome import FindOutcome, Status, StatusCategory
from pacs_tasks.sealing import new_key
from pacs_tasks.settings import Settings
from pacs_tasks.tasks.audit import Trail
from pacs_tasks.testing import TestPACS
from tests.support import attacks, workers
from tests.support.dicom_files import study_uid, write_patients
from tests.support.ports import free_port
from tests.support.service import another_service
from tests.support.waiting import wait_until

KEY = new_key()


def _events(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _kind(event: dict[str, Any]) -> str:
    return str(event["EventIdentification"]["EventID"]["originalText"])


def _object(event: dict[str, Any], role: str) -> dict[str, Any]:
    found = {each["ParticipantObjectTypeCodeRole"]: each for each in event["ParticipantObjectIdentification"]}
    return dict(found.get(role, {}))


def test_without_a_key_the_start_of_a_worker_is_an_event_too(redis_url: str, tmp_path: Path) -> None:
    trail = tmp_path / "audit.jsonl"
    with workers.worker(redis_url, tmp_path, concurrency=1, PACS_TASKS_AUDIT=str(trail)) as worker:
        wait_until(lambda: [_kind(each) for each in _events(trail)] == ["Application Activity"], 15, "the event")
        worker.end(20)
    wait_until(lambda: len(_events(trail)) == 2, 10, "the end of the worker")


def test_each_job_and_study_is_one_event(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Transfers and queries, done and failed, by us and by another service; start and end of the worker."""
    write_patients(tmp_path / "files", 3)
    trail, config = tmp_path / "trail" / "audit.jsonl", Settings(encryption_keys=KEY)
    with PacsClient(redis_url, config) as client:
        remote, out = pacs.remote, str(tmp_path / "out")
        with workers.worker(
            redis_url, tmp_path, "audited", PACS_TASKS_ENCRYPTION_KEYS=KEY, PACS_TASKS_AUDIT=str(trail)
        ) as worker:
            sent = client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(tmp_path / "files")))
            sent.wait(30)
            wait_until(
                lambda: "audit trail cannot be written" in worker.said(), 15, "the missing directory to be named"
            )
            jobs = [
                client.enqueue(FindRequest(remote=remote, keys={"PatientID": "P2"})),
                client.enqueue(RetrieveRequest(remote=remote, study_uid=study_uid(2), output_dir=out)),
                client.enqueue(RetrieveRequest(remote=remote, study_uid="1.2.3", output_dir=out)),
            ]
            for job in jobs:
                job.wait(30)
            with another_service(redis_url) as app:
                result = app.send_task("pacs_tasks.echo", kwargs={"request": {"sealed": "nonsense"}}, queue=FIND_QUEUE)
                wait_until(result.ready, 30, "the end of the message that is not genuine")
                result.forget()
            assert not trail.exists()
            # The jobs were not held up; what was kept is written now.
            trail.parent.mkdir()
            wait_until(lambda: len(_events(trail)) >= 10, 15, "the trail")
            worker.end(20)
        wait_until(lambda: "Stop" in trail.read_text(), 10, "the end of the worker")
    events = _events(trail)
    kinds = [_kind(each) for each in events]
    assert kinds.count("DICOM Instances Transferred") == 5
    assert kinds.count("Begin Transferring DICOM Instances") == 3
    assert {kind: kinds.count(kind) for kind in ("Query", "Security Alert", "Application Activity")} == {
        "Query": 1,
        "Security Alert": 1,
        "Application Activity": 2,
    }
    transferred = [each for each in events if _kind(each) == "DICOM Instances Transferred"]
    of_sending = [each for each in transferred if _object(each, "20")["ParticipantObjectID"] == sent.id]
    assert sorted(
        (_object(e, "3")["ParticipantObjectID"], _object(e, "1")["ParticipantObjectID"]) for e in of_sending
    ) == [(study_uid(number), f"P{number}") for number in (1, 2, 3)]
    assert {each["EventIdentification"]["EventOutcomeIndicator"] for each in of_sending} == {0}
    by_study = {_object(each, "3").get("ParticipantObjectID"): each for each in transferred if each not in of_sending}
    assert by_study[study_uid(2)]["EventIdentification"]["EventOutcomeIndicator"] == 0
    assert by_study["1.2.3"]["EventIdentification"]["EventOutcomeIndicator"] == 8
    query = next(each for each in events if _kind(each) == "Query")
    keys = json.loads(base64.b64decode(_object(query, "24")["ParticipantObjectQuery"]))
    assert keys["keys"] == {"PatientID": "P2"}
    assert "@" in _requestors(query)[0]
    assert {each["UserID"] for each in query["ActiveParticipant"]} >= {pacs.ae_title}
    assert trail.stat().st_mode & 0o777 == 0o600
    started = next(each for each in events if _kind(each) == "Application Activity")
    assert started["EventIdentification"]["EventDateTime"] <= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())


@pytest.fixture
def done(redis_url: str) -> Iterator[Ledger]:
    """A ledger with a query that was done and is due."""
    with PacsClient(redis_url) as client:
        job, ledger = client.enqueue(FindRequest()), client.ledger
        ledger.finish(job.id, FindOutcome(status=Status(code=0, category=StatusCategory.SUCCESS, meaning="")))
        Audits(ledger.client).expect(job.id)
        yield ledger


def failing(error: PacsTasksError) -> Callable[[str], End]:
    """Fails to read how a job ended."""

    def end(_job_id: str) -> End:
        raise error

    return end


def test_a_redis_that_is_away_for_a_moment_does_not_fail_a_job(
    done: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event of a job that was done waits until its outcome can be read."""
    file = tmp_path / "audit.jsonl"
    trail = Trail(Settings(), FileSink(str(file)), done)
    with monkeypatch.context() as patch:
        patch.setattr(done, "end", failing(BrokerUnavailableError("The Redis does not answer.")))
        with pytest.raises(BrokerUnavailableError):
            trail.round()
    assert _events(file) == []
    trail.round()
    (event,) = _events(file)
    assert event["EventIdentification"]["EventOutcomeIndicator"] == 0


def test_a_query_whose_outcome_is_spoiled_is_in_the_trail(
    done: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write to Redis cannot take it out."""
    file = tmp_path / "audit.jsonl"
    monkeypatch.setattr(done, "end", failing(SealingError("The record is not what was sealed.")))
    Trail(Settings(), FileSink(str(file)), done).round()
    assert Audits(done.client).due() == []
    (event,) = _events(file)
    assert (_kind(event), event["EventIdentification"]["EventOutcomeIndicator"]) == ("Query", 8)


def test_a_retry_is_in_the_trail_with_who_requested_it(redis_url: str, tmp_path: Path) -> None:
    file, request = tmp_path / "audit.jsonl", StoreDirectoryRequest(directory="/data")
    with PacsClient(redis_url) as client:
        ledger = client.ledger
        ledger.open("job", request.task, request, requester="bob@ward")
        for requester in ("bob@ward", "anna@desk"):
            ledger.start("job", "worker")
            ledger.fail("job", PeerUnreachableError("The remote is not there."))
            Audits(ledger.client).expect("job")
            Trail(Settings(), FileSink(str(file)), ledger).round()
            assert _requestors(_events(file)[-1]) == [f"{requester} (not proven)"]
            client.job("job").retry("anna@desk")


def _requestors(event: dict[str, Any]) -> list[str]:
    return [each["UserID"] for each in event["ActiveParticipant"] if each["UserIsRequestor"] == "true"]


def test_a_request_that_a_worker_may_not_serve_is_in_the_trail(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """It says who tried, although nothing was opened."""
    trail, study = tmp_path / "audit.jsonl", study_uid()
    with (
        workers.worker(
            redis_url, tmp_path, concurrency=1, PACS_TASKS_AUDIT=str(trail), PACS_TASKS_NAMED_REMOTES_ONLY="true"
        ),
        PacsClient(redis_url) as client,
    ):
        jobs = [
            client.enqueue(RetrieveRequest(remote=pacs.remote, study_uid=study, output_dir=str(tmp_path / "out"))),
            client.enqueue(FindRequest(remote=pacs.remote, keys={"StudyInstanceUID": study})),
        ]
        for job in jobs:
            assert job.wait(30).state is JobState.FAILED
        wait_until(lambda: len(_events(trail)) >= 4, 15, "the start of the worker, and the events of both")
    assert pacs.calling_aets == []
    known = {_object(each, "20").get("ParticipantObjectID", ""): each for each in _events(trail)}
    for job in jobs:
        assert known[job.id]["EventIdentification"]["EventOutcomeIndicator"] == 8
        assert "@" in _requestors(known[job.id])[0]


def test_who_is_turned_away_is_an_alert(redis_url: str, tmp_path: Path) -> None:
    """A caller that the receiver rejects, once a minute and address, and a message that no worker serves."""
    trail, port = tmp_path / "audit.jsonl", free_port()
    audit = {"PACS_TASKS_AUDIT": str(trail)}
    allowed = json.dumps({"CT": {"addresses": ["127.0.0.2"]}})
    with (
        workers.receiver(redis_url, tmp_path, port, PACS_TASKS_RECEIVER_ALLOW=allowed, **audit),
        workers.worker(redis_url, tmp_path, concurrency=1, **audit),
    ):
        assert [attacks.called(port, source, "STRANGER") for source in ("127.0.0.5", "127.0.0.5", "127.0.0.6")] == [
            (1, 1, 3)
        ] * 3
        assert attacks.called(port, "127.0.0.2", "CT") is None
        with connect(redis_url, 5) as client:
            client.lpush(FIND_QUEUE, "[1, 2]")
        wait_until(lambda: len(_events(trail)) >= 4, 15, "the alerts")
    alerts = [each for each in _events(trail) if _kind(each) == "Security Alert"]
    assert sorted(each["EventIdentification"]["EventTypeCode"]["originalText"] for each in alerts) == [
        "Node Authentication",
        "Node Authentication",
        "Use of Restricted Function",
    ]
    text = json.dumps(alerts)
    assert "127.0.0.5" in text
    assert "127.0.0.6" in text
    assert "Dead letter" in text
    assert all(each["EventIdentification"]["EventOutcomeIndicator"] == 8 for each in alerts)
