"""A service sends, queries and retries over HTTP."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks import PacsClient, RemoteAE, StoreDirectoryRequest
from pacs_tasks.ae import LocalAE
from pacs_tasks.connection import connect
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.outages import MOST_FAILURES, Outages
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.outcome import FindOutcome, InstanceCategory, InstanceOutcome, Status, StatusCategory
from pacs_tasks.sealing import new_key
from pacs_tasks.serve.access import Caller
from pacs_tasks.serve.routes.jobs import detail_for
from pacs_tasks.settings import Settings
from pacs_tasks.testing import Faults, TestPACS
from tests.support.dicom_files import write_series
from tests.support.http_api import Api, serving
from tests.support.interleaving import interrupt
from tests.support.recording import half_done
from tests.support.redis_server import redis_server

REFUSED = 0xC000


def _remote(pacs: TestPACS) -> dict[str, Any]:
    return pacs.remote.model_dump(mode="json", exclude_none=True)


def test_a_directory_is_sent_and_followed_to_its_receipts(service: Api, pacs: TestPACS, tmp_path: Path) -> None:
    """Each step of a service: enqueue, follow, read the outcome, page through instances, download receipts."""
    write_series(tmp_path / "study", 12, rows=2)
    body = {"task": "pacs_tasks.store_directory", "request": {"remote": _remote(pacs), "directory": str(tmp_path)}}
    key = {"Idempotency-Key": str(tmp_path)}
    accepted = service.call("POST", "/jobs", body, key, status=202)
    job_id = accepted.json["job_id"]
    assert accepted.headers["Location"] == f"/jobs/{job_id}"
    assert service.call("POST", "/jobs", body, key, status=202).json["job_id"] == job_id
    events = service.follow(job_id)
    assert events[-1][0] == "end"
    assert events[-1][1]["counters"]["success"] == 12
    assert len(pacs.instances) == 12
    detail = service.get(f"/jobs/{job_id}")
    assert detail["outcome"]["category"] == "success"
    assert detail["exit_code"] == 0
    assert detail["request"]["directory"] == str(tmp_path)
    found: list[str] = []
    start: int | None = 0
    while start is not None:
        page = service.get(f"/jobs/{job_id}/instances?limit=5&start={start}")
        found += [each["sop_instance_uid"] for each in page["instances"]]
        start = page["next"]
    assert sorted(found) == sorted(pacs.instances)
    receipts = service.call("GET", f"/jobs/{job_id}/receipts?format=csv", status=200)
    assert receipts.headers["Content-Type"].startswith("text/csv")
    assert [row["sop_instance_uid"] for row in csv.DictReader(StringIO(receipts.text))] == found
    lines = service.call("GET", f"/jobs/{job_id}/receipts", status=200).text.splitlines()
    assert [json.loads(line)["sop_instance_uid"] for line in lines] == found
    verifying = service.call("POST", f"/jobs/{job_id}/verify", {}, status=202).json["job_id"]
    service.follow(verifying)
    assert service.get(f"/jobs/{verifying}")["outcome"]["held"] == 12


def test_what_failed_is_found_and_retried(service: Api, tmp_path: Path) -> None:
    """A job that is partial names its failed instance; a retry sends that one alone."""
    files = write_series(tmp_path, 4, rows=2)
    with TestPACS() as pacs:
        job_id = service.submit("pacs_tasks.store_directory", {"remote": _remote(pacs), "directory": str(tmp_path)})
        service.follow(job_id)
        unlucky = sorted(pacs.instances)[1]
    with TestPACS(faults=Faults(store_status={unlucky: REFUSED})) as pacs:
        job_id = service.submit("pacs_tasks.store_directory", {"remote": _remote(pacs), "directory": str(tmp_path)})
        service.follow(job_id)
        detail = service.get(f"/jobs/{job_id}")
        assert (detail["outcome"]["category"], detail["exit_code"]) == ("partial", 3)
        (failed,) = service.get(f"/jobs/{job_id}/instances?category=failed")["instances"]
        assert failed["sop_instance_uid"] == unlucky
        assert failed["subject"] in map(str, files)
        assert failed["status"]["code"] == REFUSED
        pacs.faults = Faults()
        service.call("POST", f"/jobs/{job_id}/retry", status=202)
        service.follow(job_id)
        assert service.get(f"/jobs/{job_id}")["outcome"]["category"] == "success"
        assert len(pacs.instances) == 4
        refused = service.call("POST", f"/jobs/{job_id}/retry", status=422).json
        assert refused["code"] == "InvalidRequestError"
        assert "nothing to retry" in refused["detail"]


def test_jobs_are_listed_by_state_and_page_by_page(service: Api, pacs: TestPACS) -> None:
    """Each page begins where the last one ended, and a filter leaves out the rest."""
    made = [service.submit("pacs_tasks.echo", {"remote": _remote(pacs)}) for _ in range(3)]
    for job_id in made:
        service.follow(job_id)
    place = f"{pacs.remote.host}:{pacs.port}"
    seen: list[str] = []
    before = ""
    for _ in range(3):
        page = service.get(f"/jobs?limit=1&task=pacs_tasks.echo&state=done&remote={place}&before={before}")
        seen += [each["job_id"] for each in page["jobs"]]
        before = page["next"]
    assert seen == made[::-1]
    everything = service.get("/jobs?limit=1000")
    assert everything["next"] is None
    assert service.get(f"/jobs?limit={len(everything['jobs'])}")["next"] is None
    assert service.get(f"/jobs?state=failed&remote={place}")["jobs"] == []


def test_a_remote_of_the_settings_is_named_and_echoed(service: Api) -> None:
    """A service needs no address; what a remote that is away answers is the error of the command line."""
    listed = service.get("/remotes")["remotes"]
    assert "absent" in [each["name"] for each in listed]
    assert service.get("/remotes/absent")["ae_title"] == "ABSENT"
    echoed = service.call("POST", "/remotes/absent/echo", status=202).json["job_id"]
    service.follow(echoed)
    detail = service.get(f"/jobs/{echoed}")
    assert detail["job"]["state"] == "failed"
    assert (detail["error"]["type"], detail["exit_code"]) == ("PeerUnreachableError", 4)
    job_id = service.submit("pacs_tasks.echo", {}, remote="absent")
    assert "ABSENT" in service.follow(job_id)[-1][1]["remote"]


def test_a_job_is_cancelled(service: Api, pacs: TestPACS, tmp_path: Path) -> None:
    """What the command line can do with a waiting job, a service can too."""
    files = write_series(tmp_path, 40, rows=2)
    pacs.faults = Faults(rejection=None, busy_associations=1_000)
    job_id = service.submit("pacs_tasks.store_directory", {"remote": _remote(pacs), "directory": str(tmp_path)})
    service.call("POST", f"/jobs/{job_id}/cancel", status=202)
    assert service.follow(job_id)[-1][1]["state"] == "cancelled"
    assert len(pacs.instances) < len(files)
    pacs.faults = Faults()
    service.call("POST", f"/jobs/{job_id}/resume", status=202)
    service.follow(job_id)
    assert len(pacs.instances) == len(files)


def test_remotes_for_which_jobs_wait_are_listed(tmp_path: Path) -> None:
    """The default one, and one that is down and has a name nowhere; none of them has an association."""
    absent = RemoteAE(host="192.0.2.8", ae_title="ABSENT")
    with (
        redis_server(tmp_path) as redis,
        serving(redis.url(), tmp_path, PACS_TASKS_IP="192.0.2.7") as server,
        closing(connect(redis.url(), 5)) as client,
    ):
        for _ in range(MOST_FAILURES):
            Outages(client).record_failure(name_of(absent), LocalAE(), absent, "no answer")
        listed = server.as_one_who(Scope.READ).get("/remotes")["remotes"]
    default, down = listed
    assert (default["name"], default["host"], default["down_since"]) == (None, "192.0.2.7", None)
    assert (down["name"], down["remote"]) == (None, name_of(absent))
    assert down["down_since"] > 0


#: Whom the proxy names may see the console.
PROXY = {
    "PACS_TASKS_SERVE_PROXY_HEADER": "X-Remote-User",
    "PACS_TASKS_SERVE_PROXIES": "127.0.0.1",
    "PACS_TASKS_SERVE_USERS": '{"anna": ["read", "patients"]}',
}


@pytest.mark.parametrize("written", ["", '{"format": "of another version"}'], ids=["invalid", "another version"])
def test_a_job_whose_request_cannot_be_read_is_shown(tmp_path: Path, written: str) -> None:
    """Without it, also to those who may see it, by the API and the console, whether the job has ended or not."""
    with (
        redis_server(tmp_path) as redis,
        serving(redis.url(), tmp_path, **PROXY) as server,
        closing(connect(redis.url(), 5)) as client,
    ):
        service = server.as_one_who(Scope.READ, Scope.SUBMIT, Scope.PATIENTS)
        job_id = service.submit("pacs_tasks.find", {"level": "STUDY", "keys": {}})
        client.hset(job_key(job_id), "request", written)
        for state in ("queued", "done"):
            detail = service.get(f"/jobs/{job_id}")
            assert (detail["job"]["state"], detail["request"]) == (state, None)
            assert job_id in _console(server, f"/console/jobs/{job_id}")
            ended: dict[Any, Any] = {"state": "done", "finished": detail["job"]["created"], "outcome": _found()}
            client.hset(job_key(job_id), mapping=ended)


@pytest.mark.parametrize("before", range(6))
def test_a_job_that_is_retried_meanwhile_is_shown_as_it_was_or_is(ledger: Ledger, redis_url: str, before: int) -> None:
    """That it has not ended is not its error. The retry may come before any command of the API."""
    job = half_done(ledger)
    with PacsClient(redis_url) as client:
        interrupt(client.ledger.client, before, lambda: ledger.reopen(job))
        detail = detail_for(Caller("reader", frozenset({Scope.READ})), client, job)
    assert detail.error is None
    assert (detail.job.state, detail.outcome and detail.outcome["category"]) in {("done", "partial"), ("queued", None)}


def test_a_job_whose_key_is_missing_is_shown(tmp_path: Path) -> None:
    """The API and the console show state and counts, and what is missing; the list shows the other jobs too."""
    keys = [new_key(), new_key()]
    with (
        redis_server(tmp_path) as redis,
        serving(redis.url(), tmp_path, PACS_TASKS_ENCRYPTION_KEYS=keys[0], **PROXY) as server,
        PacsClient(redis.url(), Settings(encryption_keys=keys[1])) as other,
    ):
        sending = StoreDirectoryRequest(remote=RemoteAE(host="192.0.2.7"), directory="/data")
        job_id = other.enqueue(sending).id
        service = server.as_one_who(Scope.READ, Scope.PATIENTS)
        assert service.get(f"/jobs/{job_id}")["request"] is None
        assert job_id in _console(server, f"/console/jobs/{job_id}")
        other.ledger.start(job_id, "worker")
        other.ledger.manifest.plan(job_id, [FileLine("/data/1", 10)], "worker")
        other.ledger.record(job_id, 0, InstanceOutcome(subject="/data/1", category=InstanceCategory.FAILED))
        assert "Add the key to PACS_TASKS_ENCRYPTION_KEYS" in _console(server, f"/console/jobs/{job_id}")
        assert job_id in _console(server, "/")


def _found() -> str:
    return FindOutcome(status=Status(code=0, category=StatusCategory.SUCCESS, meaning="Success")).model_dump_json()


def _console(server: Api, path: str) -> str:
    """A page of the console, which is there."""
    return server.call("GET", path, headers={"X-Remote-User": "anna"}, status=200).text
