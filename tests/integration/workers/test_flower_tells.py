"""Flower finds a job and its parts by the id, says what they did, and forgets dead workers but no tasks."""

from __future__ import annotations

import base64
import json
import os
import signal
import urllib.request
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from celery.result import AsyncResult
from pydicom import dcmread

from pacs_tasks import EchoRequest, PacsClient, StoreDirectoryRequest
from pacs_tasks.app import create
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.settings import Settings
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import write_series
from tests.support.http_service import Service, service
from tests.support.service import another_service
from tests.support.waiting import wait_until

LOGIN = "watcher:only-for-this-test"
COUNT, REFUSED = 30, 2


def _page(address: str, path: str) -> str:
    token = base64.b64encode(LOGIN.encode()).decode()
    request = urllib.request.Request(address + path, headers={"Authorization": f"Basic {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return bytes(answer.read()).decode()


def _found(address: str, search: str) -> list[dict[str, Any]]:
    """The rows of Flower's page of tasks for a search."""
    query = {
        "draw": 1,
        "start": 0,
        "length": 100,
        "search[value]": search,
        "order[0][column]": 0,
        "order[0][dir]": "asc",
    }
    return list(
        json.loads(_page(address, f"/tasks/datatable?{urlencode(query | {'columns[0][data]': 'name'})}"))["data"]
    )


def test_a_job_that_failed_in_part_is_found_with_its_parts(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Its state is no success there, its result in Celery is as ever, and no path is shown."""
    paths = write_series(tmp_path / "secret-ward", COUNT, patient_name="Hidden^Person")
    refused = [str(dcmread(path).SOPInstanceUID) for path in paths[:REFUSED]]
    pacs.faults = Faults(store_status=dict.fromkeys(refused, 0x0122))
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "secret-ward"), files_per_task=10)
    with (
        workers.worker(redis_url, tmp_path, "one", options="") as worker,
        workers.flower(redis_url, tmp_path, LOGIN, "info", "--purge-offline-workers=1", kill=False) as address,
        PacsClient(redis_url) as client,
        create(redis_url, Settings()) as app,
    ):
        wait_until(lambda: "one@" in _page(address, "/workers?json=1"), 30, "the worker in Flower")
        job = client.enqueue(request)
        job.wait(60)
        assert AsyncResult(job.id, app=app).get(timeout=30)["category"] == "partial"

        def rows() -> list[dict[str, Any]]:
            found = _found(address, job.id)
            return found if len(found) == 4 and all(row["state"] in {"SUCCESS", "FAILURE"} for row in found) else []

        found = wait_until(rows, 30, "the job and its parts in Flower")
        (whole,) = (row for row in found if row["uuid"] == job.id)
        parts = sorted((row["args"], row["result"]) for row in found if row is not whole)
        short, remote = job.id[:8], name_of(pacs.remote)
        assert whole["state"] == "FAILURE"
        assert whole["result"] == f"partial: {COUNT - REFUSED} sent, {REFUSED} failed"
        assert [args for args, _ in parts] == [
            f"send-dir {short}, {start}-{start + 9}, {remote}" for start in (1, 11, 21)
        ]
        assert [result for _, result in parts] == ["8 sent, 2 failed", "10 sent", "10 sent"]
        assert [row["uuid"] for row in _found(address, "state:FAILURE 1-10")] == [
            row["uuid"] for row in found if "1-10" in row["args"]
        ]
        shown = "".join(_page(address, page) for page in (f"/task/{job.id}", "/api/tasks", f"/api/task/info/{job.id}"))
        shown += json.dumps(found)
        assert "secret-ward" not in shown
        assert "Hidden" not in shown
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: "one@" not in _page(address, "/workers?json=1"), 30, "the dead worker to leave the list")
        assert 'worker="one@' not in _page(address, "/metrics")
    with workers.flower(redis_url, tmp_path, LOGIN) as address:
        assert len(_found(address, job.id)) == 4, "it remembers"


def test_a_delivery_tells_what_came_of_it(redis_url: str, tmp_path: Path, pacs: TestPACS) -> None:
    with (
        service({"/gone": lambda _, __: 410}) as called,
        workers.flower(redis_url, tmp_path, LOGIN) as address,
        workers.worker(
            redis_url, tmp_path, options="", PACS_TASKS_WEBHOOKS=_webhooks(called, "good", "gone")
        ) as worker,
        PacsClient(redis_url) as client,
    ):
        wait_until(lambda: client.ledger.client.exists("pacs_tasks:webhooks"), 20, "the worker to want ends")
        client.enqueue(EchoRequest(remote=pacs.remote)).wait(30)
        wait_until(lambda: len(called.received) >= 2, 30, "the service to be called")
        event = called.received[0].headers["webhook-id"]

        def rows() -> list[tuple[str, str, str]]:
            found = sorted((row["result"], row["state"], row["args"]) for row in _found(address, event))
            return found if [state for _, state, _ in found] == ["SUCCESS", "FAILURE"] else []

        shown = f"webhook {event.removeprefix('evt_')[:8]}"
        found = wait_until(rows, 30, "both deliveries in Flower")
        assert found == [("delivered", "SUCCESS", shown), ("given up", "FAILURE", shown)]
        assert "410" in worker.said()


def _webhooks(called: Service, *names: str) -> str:
    """The setting of webhooks that a service answers, each at its name."""
    secret = "whsec_" + base64.b64encode(bytes(24)).decode()
    return json.dumps({name: {"url": f"{called.url}/{name}", "secret": secret} for name in names})


def test_what_a_worker_shows_stays_although_the_event_of_the_publisher_comes_later(
    redis_url: str, tmp_path: Path
) -> None:
    job_id, part = uuid.uuid4().hex, str(uuid.uuid4())
    shown = f"send-dir {job_id[:8]}, 1-10"
    with workers.flower(redis_url, tmp_path, LOGIN) as address, another_service(redis_url) as publisher:

        def listens() -> bool:
            events.send("worker-heartbeat", freq=2)
            return "one@host" in _page(address, "/workers?json=1")

        def seen() -> list[str]:
            return [row["args"] for row in _found(address, job_id) if row["sent"]]

        with (
            publisher.connection_for_write() as connection,
            publisher.events.Dispatcher(connection, hostname="one@host") as events,
        ):
            wait_until(listens, 20, "Flower to hear of the worker")
            common = {"uuid": part, "name": "pacs_tasks.store_part"}
            events.send("task-received", **common, args=shown, kwargs=f"{{'job': '{job_id}'}}")
            events.send("task-sent", **common, args="(hidden)", kwargs="(hidden)", queue="pacs_tasks.store")
            assert wait_until(seen, 20, "both events") == [shown]
