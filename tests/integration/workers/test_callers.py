"""Who may call the receiver: named callers, and remotes from which a running job expects something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pacs_tasks import Category, MoveRequest, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.connection import connect
from pacs_tasks.fleet.audits import Audits
from pacs_tasks.settings import Settings
from pacs_tasks.testing import TestPACS
from tests.support import attacks, workers
from tests.support.attacks import Numbers
from tests.support.dicom_files import study_uid, write_series
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until
from workers.receiver.callers import KnownCallers

CALLING_AET = (1, 1, 3)
CALLED_AET = (1, 1, 7)
#: The settings of a receiver that accepts few, and who calls it.
_ALLOWED = {
    "PACS_TASKS_RECEIVER_ALLOW": json.dumps(
        {
            "CT": {"addresses": ["127.0.0.2", "127.0.8.0/24"]},
            "ANYWHERE": {},
            "NAMED": {"addresses": ["localhost"]},
            "MAPPED": {"addresses": ["::ffff:127.0.0.5"]},
            "*": {"addresses": ["127.0.0.7"]},
        }
    )
}
_REMOTES = {"PACS_TASKS_REMOTES": json.dumps({"archive": {"ae_title": "ARCHIVE", "host": "192.0.2.7"}})}


@pytest.mark.parametrize(
    ("settings", "said", "answers"),
    [
        (
            {},
            "Anybody may call this receiver",
            {("127.0.0.2", "STRANGER", "PACS_TASKS"): None, ("127.0.0.2", "STRANGER", "ANOTHER"): None},
        ),
        (
            _REMOTES,
            "These may call PACS_TASKS: this machine; ARCHIVE at 192.0.2.7; and each PACS from which a running job",
            {("127.0.0.2", "STRANGER", "PACS_TASKS"): None, ("127.0.0.2", "STRANGER", "ANOTHER"): CALLED_AET},
        ),
        (
            _ALLOWED,
            "These may call PACS_TASKS: CT at 127.0.0.2, 127.0.8.0/24; ANYWHERE at any address; NAMED at localhost;",
            {
                ("127.0.0.2", "CT", "PACS_TASKS"): None,
                ("127.0.8.77", "CT", "PACS_TASKS"): None,
                ("127.0.0.2", "CT", "ANOTHER"): CALLED_AET,
                ("127.0.0.3", "CT", "PACS_TASKS"): CALLING_AET,
                ("127.0.0.2", "ct", "PACS_TASKS"): CALLING_AET,
                ("127.0.0.2", "MR", "PACS_TASKS"): CALLING_AET,
                ("127.0.0.2", "*", "PACS_TASKS"): CALLING_AET,
                ("127.0.0.4", "ANYWHERE", "PACS_TASKS"): None,
                ("127.0.0.1", "NAMED", "PACS_TASKS"): None,
                ("127.0.0.5", "MAPPED", "PACS_TASKS"): None,
                ("127.0.0.7", "STRANGER", "PACS_TASKS"): None,
                ("127.0.0.1", "STRANGER", "PACS_TASKS"): CALLING_AET,
            },
        ),
        (
            {**_ALLOWED, "PACS_TASKS_RECEIVER_ANY_CALLED_AE_TITLE": "true"},
            "These may call any AE title: CT at",
            {("127.0.0.2", "CT", "ANOTHER"): None, ("127.0.0.2", "MR", "ANOTHER"): CALLING_AET},
        ),
    ],
    ids=["nobody is named", "a remote is named", "callers are allowed", "any called AE title"],
)
def test_who_may_call(
    redis_url: str,
    tmp_path: Path,
    settings: dict[str, str],
    said: str,
    answers: dict[tuple[str, str, str], Numbers | None],
) -> None:
    """Others are rejected with the right reason; the line at the start says who may call."""
    port = free_port()
    with workers.receiver(redis_url, tmp_path, port, **settings) as running:
        assert {each: attacks.called(port, each[0], each[1], each[2]) for each in answers} == answers
        assert said in running.said()
        for (source, title, _), answer in answers.items():
            assert (f"{title} at {source} was rejected: it" in running.said()) >= (answer is not None)


def test_rejections_do_not_fill_the_log(redis_url: str, tmp_path: Path) -> None:
    """Of a thousand, ten lines are written a minute."""
    port = free_port()
    with workers.receiver(redis_url, tmp_path, port, **_ALLOWED) as running:
        for number in range(200):
            assert attacks.called(port, "127.0.0.5", f"STRANGER{number}") == CALLING_AET
        assert running.said().count("was rejected") == 10


def test_the_pacs_of_a_running_job_may_call(client: PacsClient, shared_redis_url: str, tmp_path: Path) -> None:
    """A PACS that only the request names delivers by C-MOVE while the job runs, and is a stranger afterwards."""
    port = free_port()
    with (
        TestPACS(instances=write_series(tmp_path / "held", 5)) as archive,
        workers.receiver(shared_redis_url, tmp_path, port, "GUARDED", **_ALLOWED),
    ):
        archive.destinations = {"GUARDED": ("127.0.0.1", port)}
        assert attacks.called(port, "127.0.0.1", archive.ae_title, "GUARDED") == CALLING_AET
        job = client.enqueue(
            RetrieveRequest(
                remote=archive.remote,
                study_uid=study_uid(),
                output_dir=str(tmp_path / "out"),
                method=RetrieveMethod.MOVE,
                move_aet="GUARDED",
            )
        )
        job.wait(30)
        assert job.outcome().category is Category.SUCCESS, job.outcome()
        assert len(list((tmp_path / "out").rglob("*.dcm"))) == 5
        moved = client.enqueue(MoveRequest(remote=archive.remote, move_aet="GUARDED", study_uid=study_uid()))
        moved.wait(30)
        assert moved.outcome().suboperations.completed == 5, moved.outcome()
        # The job ends with the last outcome, a moment before its part does.
        wait_until(
            lambda: attacks.called(port, "127.0.0.1", archive.ae_title, "GUARDED") == CALLING_AET,
            10,
            "it to be a stranger",
        )


def test_failed_handshakes_are_one_alert_for_each_address(redis_url: str) -> None:
    """A worker writes them into the audit trail."""
    callers = KnownCallers(Settings(audit="/audit.jsonl"), redis_url)
    for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        callers.note_failed_handshake(host)
    with connect(redis_url, 5) as client:
        callers._put_alerts(client)
        assert client.llen("pacs_tasks:audit:events") == 2
        assert "TLS handshake" in str(Audits(client).first())


def test_alerts_wait_for_a_redis_that_is_full(tmp_path: Path) -> None:
    """Meanwhile the receiver still reads who may call it."""
    with redis_server(tmp_path) as server, connect(server.url(), 5) as client:
        client.config_set("maxmemory", 1)
        callers = KnownCallers(Settings(audit="/audit.jsonl"), server.url())
        callers.note_failed_handshake("192.0.2.1")
        callers.start()
        try:
            wait_until(lambda: "errorstat_OOM" in client.info("errorstats"), 10, "Redis to refuse the alert")
            client.config_set("maxmemory", 0)
            wait_until(lambda: client.llen("pacs_tasks:audit:events") == 1, 10, "the alert")
        finally:
            callers.close()
