"""Webhooks, from the end of a job to a service that answers, fails, is slow, is gone or has moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks import EchoRequest, Job, JobState, PacsClient, RemoteAE, StoreDirectoryRequest
from pacs_tasks.app import create
from pacs_tasks.operations import FIND_QUEUE
from pacs_tasks.schema import JobEvent
from pacs_tasks.sealing import new_key
from pacs_tasks.settings import Settings, load
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from tests.support.command import PACS_TASKS, Terminal
from tests.support.dicom_files import write_series
from tests.support.http_service import Received, Service, service
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.waiting import wait_until
from tests.support.workers import worker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#: A directory whose name only a subscription with `patients` may see.
PRIVATE = "Secret^Patient"


@dataclass(frozen=True)
class Scene:
    """A worker with webhooks, the service that these call, and a client of the same Redis."""

    service: Service
    client: PacsClient
    config: Settings
    terminal: Terminal
    process: Process

    def deliveries(self) -> dict[str, Any]:
        """What `webhooks list` shows, by webhook."""
        found = self.terminal.run("webhooks", "list", "--json").json["deliveries"]
        return {each["webhook"]: each for each in found}

    def events(self, path: str, job: Job[Any], count: int = 1) -> list[Received]:
        """Wait for so many deliveries about a job."""

        def found() -> list[Received]:
            return [each for each in self.service.at(path) if each.event["subject"] == job.id]

        wait_until(lambda: len(found()) >= count, 30, f"{count} events at {path}")
        return found()

    def repeated(self, path: str, first: Received) -> list[Received]:
        """Wait until the same event comes once more."""

        def found() -> list[Received]:
            return [each for each in self.service.at(path) if each.body == first.body]

        wait_until(lambda: len(found()) > 1, 30, f"an event to come again at {path}")
        return found()


@pytest.fixture
def scene(redis_url: str, tmp_path: Path) -> Iterator[Scene]:
    """Everything that is private is encrypted there."""
    answers = {
        "/flaky": lambda _, number: 500 if number == 1 else 200,
        "/moved": lambda _, __: 302,
        "/gone": lambda _, __: 410,
    }
    with service(answers) as running:

        def silent(_: BaseHTTPRequestHandler, __: int) -> None:
            running.ended.wait(30)

        running.answers["/slow"] = silent
        names = ("good", "flaky", "moved", "gone")
        every = {name: {"url": f"{running.url}/{name}", "secret": SECRET} for name in names}
        slow = {"url": f"{running.url}/slow", "secret": SECRET, "timeout": 0.5, "events": ["success"]}
        told = {"url": f"{running.url}/told", "secret": SECRET, "events": ["partial", "failed"], "patients": True}
        variables: dict[str, Any] = {
            "PACS_TASKS_WEBHOOKS": json.dumps({**every, "slow": slow, "told": told}),
            "PACS_TASKS_ENCRYPTION_KEYS": new_key(),
        }
        terminal = Terminal(tmp_path, redis_url, tuple(variables.items()), PACS_TASKS)
        config = load(encryption_keys=variables["PACS_TASKS_ENCRYPTION_KEYS"])
        with worker(redis_url, tmp_path, **variables) as process, PacsClient(redis_url, config) as client:
            wait_until(lambda: client.ledger.client.exists("pacs_tasks:webhooks"), 20, "the worker to want ends")
            yield Scene(running, client, config, terminal, process)


def test_the_end_of_a_job_is_told_to_whom_it_concerns(scene: Scene, tmp_path: Path) -> None:
    """A transfer that half fails, a success, and a job that nobody answers."""
    paths = write_series(tmp_path / PRIVATE, 3)
    with TestPACS(faults=Faults(store_status={EVERY_INSTANCE: 0xA900}, store_status_times=1)) as pacs:
        sent = scene.client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / PRIVATE)))
        echo = scene.client.enqueue(EchoRequest(remote=pacs.remote))
        nobody = scene.client.enqueue(EchoRequest(remote=RemoteAE(ae_title="NOBODY", port=free_port())))
        _check_plain(scene, sent, echo, nobody)
        _check_private(scene, sent, tmp_path / PRIVATE, paths)
        _check_troubles(scene)
        _check_again(scene, sent, pacs)


def _check_plain(scene: Scene, sent: Job[Any], echo: Job[Any], nobody: Job[Any]) -> None:
    """Each end is told once, signed, as a CloudEvent without anything private."""
    assert sent.wait(30).state is JobState.DONE
    for job, category in ((sent, sent.outcome().category), (echo, "success"), (nobody, "failed")):
        (received,) = scene.events("/good", job)
        assert received.is_signed(SECRET)
        event = JobEvent.model_validate_json(received.body)
        assert (event.specversion, event.type) == ("1.0", "pacs_tasks.job.ended")
        assert event.id == received.headers["webhook-id"]
        assert (event.data.category, event.data.task) == (category, job.progress().task)
        assert PRIVATE not in received.body.decode()
        assert event.data.request is None
    about = f"[job {sent.id}, webhook good]"
    wait_until(lambda: about in scene.process.said(), 10, "the log to name the job and the webhook")
    (received,) = scene.events("/good", nobody)
    assert received.event["data"]["error_type"] == "PeerUnreachableError"


def _check_private(scene: Scene, sent: Job[Any], directory: Path, paths: list[Path]) -> None:
    """Only who wants only failures, and patients, reads of the directory; Redis holds nothing of it in clear."""
    (told,) = scene.events("/told", sent)
    assert told.event["data"]["request"]["directory"] == str(directory)
    assert {each["subject"] for each in told.event["data"]["problems"]} == set(map(str, paths))
    assert {each.event["data"]["category"] for each in scene.service.at("/told")} == {"failed"}


def _check_troubles(scene: Scene) -> None:
    """What fails comes again with the same id and body; what is gone is given up, and `retry` delivers it."""
    failed = scene.service.at("/flaky")[0]
    _, again = scene.repeated("/flaky", failed)
    assert again.headers["webhook-id"] == failed.headers["webhook-id"]
    assert again.is_signed(SECRET)
    known = wait_until(lambda: _with_errors(scene, {"slow", "moved", "gone"}), 30, "all troubles to be listed")
    assert known["slow"]["error"] == "No response within 0.5 s."
    assert "redirects are not followed" in known["moved"]["error"]
    assert (known["gone"]["error"], known["gone"]["given_up"]) == ("HTTP status 410.", True)
    assert not scene.service.at("/elsewhere")
    scene.service.answers["/gone"] = lambda _, __: 200
    before = len(scene.service.at("/gone"))
    assert scene.terminal.run("webhooks", "retry").code == 0
    wait_until(lambda: len(scene.service.at("/gone")) >= before + 3, 30, "what was given up to be delivered")
    wait_until(lambda: "gone" not in scene.deliveries(), 30, "the list to be shorter")


def _with_errors(scene: Scene, names: set[str]) -> dict[str, Any]:
    found = scene.deliveries()
    return found if all(found.get(name, {}).get("error") for name in names) else {}


def _check_again(scene: Scene, sent: Job[Any], pacs: TestPACS) -> None:
    """A task that runs twice delivers nothing twice; the end of a retry is another event."""
    (once,) = scene.events("/good", sent)
    with create(scene.client.redis_url, scene.config) as app:
        app.send_task("pacs_tasks.webhook", args=[f"{once.headers['webhook-id']}:good"], queue=FIND_QUEUE)
        sent.retry().wait(30)
        first, second = scene.events("/good", sent, 2)
    assert (first.body, second.event["data"]["attempt"]) == (once.body, 2)
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert second.event["data"]["category"] == "success"
    assert len(pacs.instances) == 3
    assert len(scene.events("/good", sent)) == 2
