"""What is purged is gone: from Redis, and from its files."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pacs_tasks.connection import connect
from pacs_tasks.embedded import stop
from pacs_tasks.embedded.places import Places
from pacs_tasks.errors import PeerUnreachableError
from pacs_tasks.fleet.audits import Audits
from pacs_tasks.journal.audit import Event, Kind
from pacs_tasks.ledger.commitments import Commitments, Transaction
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.messages.dead_letters import DeadLetters
from pacs_tasks.request import FindRequest
from pacs_tasks.settings import load
from tests.support.command import PACS_TASKS, Terminal
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import wait_until

PATIENT = "PURGED-4711"
_RIGHTS = ["--user", *["default", "on", "nopass", "~*", "&*", "+@all", "-bgrewriteaof"]]


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis with an append-only file; more options are the parameter."""
    directory = tmp_path / "redis"
    directory.mkdir()
    with redis_server(directory, durable=True, more=getattr(request, "param", [])) as running:
        yield running


def _files_hold(directory: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def _record(server: RedisServer) -> None:
    """Three jobs about one patient: one failed, one that also has a transaction, one that runs."""
    with closing(connect(server.url(), 5)) as client:
        ledger = Ledger(client)
        for job_id in ("failed", "committed", "running"):
            ledger.open(job_id, FindRequest.task, FindRequest(keys={"PatientID": PATIENT}))
            ledger.start(job_id, "worker")
            if job_id == "committed":
                Commitments(ledger, job_id).begin("1.2.3", Transaction(peer="PACS", asked=1.0))
            if job_id != "running":
                ledger.fail(job_id, PeerUnreachableError("The remote is not there."))
        DeadLetters(client, 60).add(b"{}", "pacs_tasks.find", "It was sent twice.", FindRequest.task, "committed")


def _terminal(tmp_path: Path, url: str | None) -> Terminal:
    directory = tmp_path / "terminal"
    directory.mkdir()
    return Terminal(directory, url, entry=PACS_TASKS)


def test_nothing_of_a_job_is_left(server: RedisServer, tmp_path: Path) -> None:
    """But of one that runs, which is named."""
    _record(server)
    terminal, directory = _terminal(tmp_path, server.url()), tmp_path / "redis"
    wait_until(lambda: _files_hold(directory, "1.2.3"), 10, "Redis to write its file")
    assert terminal.run("purge", "--older-than", "1h").stderr == "There was nothing to purge.\n"
    assert terminal.run("purge", "--older-than", "0s").stderr == "2 jobs purged.\n"
    with closing(connect(server.url(), 5)) as client:
        assert {key.rpartition(":")[2] for key in client.scan_iter()} == {"jobs", "running"}
        assert client.zrange("pacs_tasks:jobs", 0, -1) == ["running"]
    wait_until(lambda: not _files_hold(directory, "1.2.3"), 10, "Redis to remove its old file")
    result = terminal.run("purge", "running", "--json")
    assert (result.code, result.json["purged"], result.json["unfinished"]) == (2, [], ["running"])
    assert "running: this job has not ended" in result.stderr
    assert terminal.run("purge", "failed").code == 7
    assert terminal.run("purge").code == terminal.run("purge", "x", "--older-than", "1d").code == 2


def test_a_job_stays_until_the_audit_trail_has_it(server: RedisServer, tmp_path: Path) -> None:
    """The trail is written from its record."""
    _record(server)
    terminal = _terminal(tmp_path, server.url())
    with closing(connect(server.url(), 5)) as client:
        Audits(client).expect("failed")
        result = terminal.run("purge", "failed", "--json")
        assert (result.code, result.json["purged"], result.json["not_audited"]) == (2, [], ["failed"])
        assert "failed: the audit trail of this job is not written yet" in result.stderr
        assert terminal.run("purge", "--older-than", "0s").stderr == "1 job purged.\n"
        Audits(client).done("failed")
    assert terminal.run("purge", "failed").stderr == "1 job purged.\n"


def test_the_audit_trail_names_who_purged(server: RedisServer, tmp_path: Path) -> None:
    """Where there is one: its workers say so in Redis."""
    _record(server)
    terminal = _terminal(tmp_path, server.url())
    with closing(connect(server.url(), 5)) as client:
        audits = Audits(client)
        assert terminal.run("purge", "failed").code == 0
        assert audits.first() is None
        audits.want()
        assert terminal.run("purge", "committed").code == 0
        event = Event.from_json(audits.first() or "")
        assert (event.kind, event.detail) == (Kind.DELETED, "The records of these jobs were purged: committed")
        assert event.enqueuer.endswith(f"@{socket.gethostname()} (not proven)")
        audits.drop_first()
        terminal.run("purge", "running")
        assert audits.first() is None


@pytest.mark.parametrize("server", [_RIGHTS], indirect=True)
def test_a_redis_that_does_not_rewrite_its_file_is_told(server: RedisServer, tmp_path: Path) -> None:
    """The records are deleted, and the sentence says what is left to do."""
    _record(server)
    result = _terminal(tmp_path, server.url()).run("purge", "failed", "committed")
    assert result.code == 0
    assert "2 jobs purged." in result.stderr
    assert "Run BGREWRITEAOF as a user of Redis who may" in result.stderr


@pytest.mark.parametrize("embedded", ["valkey", "fakeredis"])
def test_the_private_server_forgets_as_well(tmp_path: Path, embedded: str) -> None:
    """A job of this machine, with the patient's id from a file."""
    (tmp_path / "id").write_text(f"{PATIENT}\n")
    terminal = _terminal(tmp_path, None)
    terminal = Terminal(terminal.directory, None, (("PACS_TASKS_EMBEDDED", embedded),), PACS_TASKS)
    settings = load(data_dir=terminal.data_dir)
    files = Places.of(settings).server_dir
    try:
        result = terminal.run("query", "--patient-id", f"@{tmp_path / 'id'}", "--port", free_port(), "--timeout", 2)
        assert result.code == 4
        wait_until(lambda: _files_hold(files, PATIENT), 10, "the private server to write its file")
        assert "1 job purged." in terminal.run("purge", "last").stderr
        wait_until(lambda: not _files_hold(files, PATIENT), 10, "the private server to forget")
    finally:
        stop(settings)
