"""Signed tasks: who enqueued them is known, and what nobody signed is refused where signatures are required."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pacs_tasks import (
    EchoRequest,
    InvalidRequestError,
    JobFailedError,
    PacsClient,
    StoreDirectoryRequest,
    StorePathsRequest,
)
from pacs_tasks.ae import RemoteAE
from pacs_tasks.ledger.keys import dump_request, job_key
from pacs_tasks.messages.dead_letters import DeadLetters
from pacs_tasks.messages.signature import sign_record
from pacs_tasks.settings import Settings, load
from pacs_tasks.testing import Faults, TestPACS
from tests.support import signing, workers
from tests.support.dicom_files import write_many
from tests.support.processes import Process
from tests.support.service import another_service
from tests.support.waiting import wait_until

_WORKER, _CLIENT, _SERVICE = ("w" * 32, "c" * 40, "s" * 40)
_KEYS = json.dumps({"desk": _CLIENT, "ris": _SERVICE})


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def strict(redis_url: str, tmp_path: Path) -> Iterator[Process]:
    """A worker that requires signatures."""
    with workers.worker(
        redis_url,
        tmp_path,
        PACS_TASKS_REQUIRE_SIGNATURES="true",
        PACS_TASKS_SIGNING_KEY=f"fleet:{_WORKER}",
        PACS_TASKS_ENQUEUER_KEYS=_KEYS,
    ) as running:
        yield running


def _client(redis_url: str, name: str = "", key: str = "") -> PacsClient:
    config: Settings = load(signing_key=f"{name}:{key}") if name else load()
    return PacsClient(redis_url, config)


def _who(broker: redis.Redis, job_id: str) -> Any:
    return broker.hget(job_key(job_id), "enqueuer")


def test_a_signed_job_is_served_with_its_parts_and_names_its_enqueuer(
    broker: redis.Redis, redis_url: str, strict: Process, pacs: TestPACS, tmp_path: Path
) -> None:
    """Our client, and a service that knows Celery alone; what workers send for them is signed too."""
    write_many(tmp_path / "files", (1, 1, 3))
    with _client(redis_url, "desk", _CLIENT) as client:
        job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
        assert job.wait(60).state.finished, strict.said()
        assert job.outcome().counters.done == 3
    assert _who(broker, job.id) == "desk"
    request = {"remote": json.loads(pacs.remote.model_dump_json())}
    with another_service(redis_url) as service, signing.signed_by("ris", _SERVICE):
        sent = service.send_task("pacs_tasks.echo", kwargs={"request": request}, queue="pacs_tasks.find", countdown=0.1)
        assert sent.get(timeout=30)["category"] == "success"
        assert _who(broker, sent.id) == "ris"
        sent.forget()
        del sent
    assert not DeadLetters(broker, 60).count()


def test_what_is_not_signed_or_was_changed_is_refused(
    broker: redis.Redis, redis_url: str, strict: Process, pacs: TestPACS
) -> None:
    """Nothing is done for it; its job ends with the reason."""
    with _client(redis_url) as unsigned, _client(redis_url, "desk", "x" * 40) as forger:
        for client in (unsigned, forger, _client(redis_url, "nobody", _CLIENT)):
            with client:
                job = client.enqueue(EchoRequest(remote=pacs.remote))
                letters = DeadLetters(broker, 60)
                wait_until(lambda job=job, letters=letters: any(each.job_id == job.id for each in letters.all()), 30)  # type: ignore[misc]
    request = {"remote": json.loads(pacs.remote.model_dump_json())}
    with another_service(redis_url) as service:
        sent = service.send_task("pacs_tasks.echo", kwargs={"request": request}, queue="pacs_tasks.find")
        with pytest.raises(Exception, match="is not signed"):
            sent.get(timeout=30)
        sent.forget()
        del sent
    assert not pacs.associations, "nobody called the PACS"


def test_a_request_that_was_changed_in_the_ledger_is_refused(
    broker: redis.Redis, redis_url: str, strict: Process, pacs: TestPACS
) -> None:
    """The message holds an id alone, so the request is signed too, and its large field."""
    with _client(redis_url, "desk", _CLIENT) as client:
        job_id = uuid.uuid4().hex
        client.ledger.open(job_id, EchoRequest.task, EchoRequest(remote=pacs.remote))
        client._broker.publish(EchoRequest.task, job_id)
        with pytest.raises(InvalidRequestError, match="is not signed"):
            client.job(job_id).wait(30) and client.job(job_id).outcome()
        request = StorePathsRequest(remote=pacs.remote, paths=("/etc/hosts",))
        for change in ({"remote": RemoteAE(ae_title="EVIL")}, {"paths": ("/etc/hostname",)}):
            job_id = uuid.uuid4().hex
            client.ledger.open(job_id, request.task, request)
            sign_record(client.ledger, job_id, request, client._settings)
            text, bulk = dump_request(request.model_copy(update=change))
            broker.hset(job_key(job_id), "request", text)
            broker.set(job_key(job_id, "bulk"), bulk)
            client._broker.publish(request.task, job_id)
            with pytest.raises(InvalidRequestError, match="signature of the message is not valid"):
                client.job(job_id).wait(30) and client.job(job_id).outcome()
        assert strict.running()


def test_a_request_that_was_changed_while_its_job_runs_is_refused(
    broker: redis.Redis, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """The parts that are left fail, an alert is in the audit trail, and it names nobody whom no signature proves."""
    write_many(tmp_path / "files", (1, 1, 30))
    trail = tmp_path / "audit.jsonl"
    pacs.faults = Faults(hold_instances_after=3)
    settings = {
        "PACS_TASKS_REQUIRE_SIGNATURES": "true",
        "PACS_TASKS_SIGNING_KEY": f"fleet:{_WORKER}",
        # No part begins while another one waits.
        "PACS_TASKS_ASSOCIATIONS_PER_PROCESS": "1",
    }
    with (
        TestPACS("EVIL") as evil,
        workers.worker(
            redis_url, tmp_path, concurrency=1, PACS_TASKS_ENQUEUER_KEYS=_KEYS, PACS_TASKS_AUDIT=str(trail), **settings
        ),
        _client(redis_url, "desk", _CLIENT) as client,
    ):
        request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=10)
        job = client.enqueue(request)
        wait_until(lambda: len(pacs.instances) >= 3, 30, "the first part")
        text, _ = dump_request(request.model_copy(update={"remote": evil.remote}))
        broker.hset(job_key(job.id), mapping={"request": text, "enqueuer": "chief-radiologist"})
        pacs.faults = Faults()
        assert job.wait(60).counters.failed == 20
        assert {each.reason for each in job.outcome().problems} == {
            "The signature of the message is not valid. Check the name and the key of its enqueuer."
        }
        assert not evil.instances
        wait_until(
            lambda: trail.exists() and "DICOM Instances Transferred" in trail.read_text(), 30, "the job in the trail"
        )
        events = [json.loads(line) for line in trail.read_text().splitlines()]
    parties = [each for event in events for each in event["ActiveParticipant"]]
    assert not any(each["UserID"].startswith("chief") for each in parties)
    alerts = [each for each in events if each["EventIdentification"]["EventID"]["originalText"] == "Security Alert"]
    assert len(alerts) == 2, "one for each part that was left"


def test_a_message_is_accepted_once(broker: redis.Redis, redis_url: str, strict: Process, pacs: TestPACS) -> None:
    """A copy of it does nothing, not even when the record of its job is gone."""
    request = {"remote": json.loads(pacs.remote.model_dump_json())}
    with another_service(redis_url) as service, signing.signed_by("ris", _SERVICE), _client(redis_url) as client:
        message = signing.captured(service, broker, "pacs_tasks.echo", {"request": request}, "pacs_tasks.find")
        job_id = message["headers"]["id"]
        broker.lpush("pacs_tasks.find", json.dumps(message))
        wait_until(lambda: broker.exists(job_key(job_id)), 30)
        assert client.job(job_id).wait(30).state.finished
        client.ledger.discard(job_id)
        message["properties"]["delivery_tag"] = "another"
        broker.lpush("pacs_tasks.find", json.dumps(message))
        wait_until(lambda: broker.exists(job_key(job_id)), 30)
        with pytest.raises((InvalidRequestError, JobFailedError), match="sent before"):
            client.job(job_id).wait(30) and client.job(job_id).outcome()
