"""Callbacks, chains, groups and chords of a service that has none of our modules follow every public task."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Signature, chain, chord, group
from celery.result import AsyncResult
from pydicom import dcmread

from pacs_tasks import PacsClient, PeerUnavailableError, StoreDirectoryRequest
from pacs_tasks.app import create
from pacs_tasks.operations import OPERATIONS, STORE_QUEUE
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine import claim
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Rejection, Report, TestPACS
from tests.support.dicom_files import study_uid, write_many, write_series
from tests.support.processes import ROOT, Process, environment, started
from tests.support.service import another_service
from tests.support.waiting import wait_until

_FOREIGN = """
import json, sys
from celery import Celery
app = Celery("another-service", broker=sys.argv[1], backend=sys.argv[1])
task = app.send_task(sys.argv[2], kwargs={"request": json.loads(sys.argv[3])}, queue=sys.argv[4])
try:
    print(json.dumps(["value", task.get(timeout=60)]))
except Exception as error:
    print(json.dumps([type(error).__name__, *error.args]))
assert "pacs_tasks" not in sys.modules
"""


@pytest.fixture(scope="module")
def foreign(shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The worker of another service on the same Redis."""
    command = [sys.executable, "-m", "celery", "-A", "tests.support.foreign", "worker", "--pool", "solo"]
    command += ["--hostname", "foreign@%h", "--loglevel", "INFO", "--without-mingle", "--without-gossip"]
    with started(
        [*command, "--queues", "foreign,celery"],
        tmp_path_factory.mktemp("foreign") / "foreign.log",
        lambda process: " ready." in process.said(),
        env=environment(FOREIGN_REDIS=shared_redis_url),
        cwd=ROOT,
        timeout=60,
    ) as process:
        yield process


@pytest.fixture
def service(shared_redis_url: str, shared_worker: Process, foreign: Process) -> Iterator[Celery]:
    """The app of the service that publishes; workers of both run."""
    assert shared_worker.running(), shared_worker.said()
    assert foreign.running(), foreign.said()
    with another_service(shared_redis_url) as app:
        yield app


@pytest.fixture
def requests(pacs: TestPACS, client: PacsClient, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """A request for each public task."""
    write_series(tmp_path / "files", 3)
    pacs.hold(*write_many(tmp_path / "held", (1, 1, 2)))
    sent = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
    sent.wait(30)
    study, out = {"study_uid": study_uid()}, str(tmp_path / "out")
    fields: dict[str, dict[str, Any]] = {
        "pacs_tasks.echo": {},
        "pacs_tasks.store_file": {"path": str(next((tmp_path / "files").iterdir()))},
        "pacs_tasks.store_directory": {"directory": str(tmp_path / "files")},
        "pacs_tasks.store_paths": {"paths": [str(tmp_path / "files")]},
        "pacs_tasks.preflight": {"directory": str(tmp_path / "files")},
        "pacs_tasks.find": {"keys": {"PatientName": "*"}},
        "pacs_tasks.find_batch": {"rows": [{"number": 1, "keys": {"PatientName": "*"}}]},
        "pacs_tasks.move": {**study, "move_aet": "NOBODY"},
        "pacs_tasks.get": {**study, "output_dir": out},
        "pacs_tasks.retrieve": {**study, "output_dir": out, "method": "get"},
        "pacs_tasks.verify": {"job_id": sent.id},
        "pacs_tasks.commit": {"job_id": sent.id},
    }
    remote = pacs.remote.model_dump()
    return {name: {"remote": remote, **each} for name, each in fields.items()}


def task_of(service: Celery, task: str, request: dict[str, Any]) -> Signature:
    """An immutable signature of one of our tasks, as another service writes it."""
    return service.signature(task, kwargs={"request": request}, queue=OPERATIONS[task].queue, immutable=True)


def note_of(service: Celery, **options: Any) -> tuple[Signature, AsyncResult]:
    """A signature of the service's own task, and its result."""
    signature = service.signature("foreign.note", **{"queue": "foreign"} | options)
    return signature, signature.freeze()


@pytest.mark.parametrize("task", list(OPERATIONS))
def test_what_is_linked_to_a_task_receives_its_summary(
    service: Celery, requests: dict[str, dict[str, Any]], pacs: TestPACS, task: str
) -> None:
    """One callback has a queue that only its service knows, and a time; the other has none."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    (called, receives), (plain, receives_too) = note_of(service, expires=soon), note_of(service, queue=None)
    failed, errs = note_of(service)
    pacs.faults = Faults(report=Report.SAME_ASSOCIATION)
    signature = task_of(service, task, requests[task])
    signature.link(called)
    signature.link(plain)
    signature.link_error(failed)
    summary = signature.apply_async().get(timeout=60)
    assert receives.get(timeout=30) == receives_too.get(timeout=30) == summary
    assert not errs.ready()


def _chain(service: Celery, requests: dict[str, dict[str, Any]]) -> Any:
    return chain(
        task_of(service, "pacs_tasks.store_directory", requests["pacs_tasks.store_directory"]),
        task_of(service, "pacs_tasks.retrieve", requests["pacs_tasks.retrieve"]),
        note_of(service)[0],
        app=service,
    )


def _group(service: Celery, requests: dict[str, dict[str, Any]]) -> Any:
    names = ("pacs_tasks.echo", "pacs_tasks.store_directory", "pacs_tasks.retrieve")
    return group([task_of(service, name, requests[name]) for name in names], app=service)


def _chord(service: Celery, requests: dict[str, dict[str, Any]]) -> Any:
    return chord(_group(service, requests).tasks, note_of(service)[0], app=service)


def _group_within_a_chain(service: Celery, requests: dict[str, dict[str, Any]]) -> Any:
    before = task_of(service, "pacs_tasks.store_directory", requests["pacs_tasks.store_directory"])
    return chain(before, _group(service, requests), note_of(service)[0], app=service)


@pytest.mark.parametrize("canvas", [_chain, _group, _chord, _group_within_a_chain])
def test_chains_groups_and_chords_end(
    service: Celery, requests: dict[str, dict[str, Any]], canvas: Callable[..., Any]
) -> None:
    """Also with tasks in them that replace themselves by a chord of ours."""
    value = canvas(service, requests).apply_async().get(timeout=60)
    summaries = value if isinstance(value, list) else [value]
    assert [each["category"] for each in summaries] == ["success"] * (1 if canvas is _chain else 3)


@pytest.mark.parametrize("task", ["pacs_tasks.echo", "pacs_tasks.store_file", "pacs_tasks.store_directory"])
def test_a_failure_calls_what_is_linked_to_it_and_ends_the_chain(
    service: Celery, foreign: Process, requests: dict[str, dict[str, Any]], pacs: TestPACS, task: str
) -> None:
    """A callback for errors receives the id of the task, as Celery gives it to a task that only its service has."""
    (failed, receives), (after, _) = note_of(service), note_of(service)
    pacs.faults = (
        Faults(rejection=Rejection(1, 1, 7))
        if task == "pacs_tasks.echo"
        else Faults(store_status={EVERY_INSTANCE: 0xC000})
    )
    signature = task_of(service, task, {**requests[task], "raise_unless": "partial"})
    signature.link_error(failed)
    last = chain(signature, after, app=service).apply_async()
    assert receives.get(timeout=60) == last.parent.id
    for each in (last.parent, last):
        with pytest.raises(Exception, match=r"rejected|ended as failed"):
            each.get(timeout=30)
    assert after.id not in foreign.said()


@pytest.mark.parametrize("task", ["pacs_tasks.echo", "pacs_tasks.store_directory"])
def test_what_follows_a_task_outlives_its_message(
    service: Celery,
    shared_worker: Process,
    foreign: Process,
    requests: dict[str, dict[str, Any]],
    client: PacsClient,
    task: str,
) -> None:
    """A worker took the message and died, and Redis lost the message: a watch enqueues the task anew."""
    called, receives = note_of(service)
    operation = OPERATIONS[task]
    job_id = uuid.uuid4().hex
    accepted = operation.request.model_validate(requests[task])
    assert client.ledger.open(job_id, task, accepted, json.dumps({"callbacks": [called]}))
    our_app = create(client.redis_url, settings())
    our_app.send_task(task, task_id=job_id)
    assert receives.get(timeout=60)["category"] == "success"
    wait_until(lambda: job_id not in client.ledger.callers.waiting(), 10, "Celery has the end of the job")
    # Redis delivers the first message once more: the callback is not called again.
    called.set(task_id=uuid.uuid4().hex)
    ended = f"{task}[{job_id}] succeeded"
    before = shared_worker.said().count(ended)
    service.send_task(task, kwargs={"request": requests[task]}, queue=operation.queue, task_id=job_id, link=called)
    wait_until(lambda: shared_worker.said().count(ended) > before, 30, "the second delivery has ended")
    last, noted = note_of(service)
    last.apply_async((1,))
    noted.get(timeout=30)
    assert called.id not in foreign.said()
    our_app.close()


def test_the_end_of_a_job_without_a_message_reaches_its_service(
    service: Celery, requests: dict[str, dict[str, Any]], client: PacsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that waits for its remote has no message when it is given up or cancelled."""
    monkeypatch.setattr(claim, "_PATIENCE_AT_THE_END", 0.0)
    called, receives = note_of(service)
    job_id = uuid.uuid4().hex
    task = "pacs_tasks.store_directory"
    request = OPERATIONS[task].request.model_validate(requests[task])
    assert client.ledger.open(job_id, task, request, json.dumps({"errbacks": [called]}))
    client.ledger.fail(job_id, PeerUnavailableError("It went down."))
    our_app = create(client.redis_url, settings())
    for _ in range(2):
        claim.publish_ends(our_app, client.ledger)
    with pytest.raises(PeerUnavailableError, match="It went down"):
        AsyncResult(job_id, app=service).get(timeout=30)
    assert receives.get(timeout=30) == job_id
    our_app.close()


@pytest.mark.parametrize(
    ("least", "refused", "answer"),
    [
        (None, 1, "value"),
        ("partial", 1, "value"),
        ("success", 1, "JobOutcomeError"),
        ("partial", 3, "JobOutcomeError"),
        (None, 3, "value"),
        ("success", 0, "value"),
    ],
)
def test_a_request_decides_which_outcome_celery_counts_as_a_failure(
    shared_redis_url: str,
    client: PacsClient,
    pacs: TestPACS,
    tmp_path: Path,
    least: str | None,
    refused: int,
    answer: str,
) -> None:
    """A process without our modules receives the summary, or an error with the name of our class."""
    paths = write_series(tmp_path / "Secret^Patient", 3)
    pacs.faults = Faults(store_status={str(dcmread(path).SOPInstanceUID): 0xC000 for path in paths[:refused]})
    request = {"remote": pacs.remote.model_dump(), "directory": str(tmp_path), "raise_unless": least}
    arguments = [shared_redis_url, "pacs_tasks.store_directory", json.dumps(request), STORE_QUEUE]
    done = subprocess.run(
        [sys.executable, "-c", _FOREIGN, *arguments], capture_output=True, text=True, timeout=90, check=True, cwd="/"
    )
    kind, value = json.loads(done.stdout)
    category = {0: "success", 1: "partial", 3: "failed"}[refused]
    assert kind == answer
    if kind == "value":
        assert (value["category"], value["failed"]) == (category, refused)
    else:
        assert f"ended as {category}, and its request demands {least}" in value
        assert "Secret" not in value
        outcome = client.job(value.split()[1]).outcome()
        assert outcome.category == category
