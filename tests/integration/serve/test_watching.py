"""Many watch one job: its ledger is read as if one did."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import cast

from pacs_tasks.connection import connect
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.ledger.tokens import Scope, Tokens
from tests.support.http_api import Api, serving
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until

WATCHERS = 40


@contextmanager
def _watching(service: Api, job_id: str) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection:
        connection.request("GET", f"/jobs/{job_id}/events", headers={"Authorization": f"Bearer {service.token}"})
        response = connection.getresponse()
        with response:
            yield response


def _next(response: http.client.HTTPResponse) -> str:
    """The next event: its name, and the state in its data."""
    while not (line := response.readline().decode()).startswith("event: "):
        assert line, "the stream ended"
    data = json.loads(response.readline().decode().removeprefix("data: "))
    return f"{line.removeprefix('event: ').strip()} {data['state']}"


def _reads(url: str) -> int:
    with closing(connect(url, 5)) as client:
        stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
        return stats["cmdstat_hmget"]["calls"]


def test_a_job_is_read_once_for_all_who_watch_it(tmp_path: Path) -> None:
    """All learn of the end. Meanwhile each look at the ledger serves all of them."""
    with redis_server(tmp_path) as redis, serving(redis.url(), tmp_path) as server, ExitStack() as stack:
        service = server.as_one_who(Scope.READ, Scope.SUBMIT)
        job_id = service.submit("pacs_tasks.echo", {})
        watching = [stack.enter_context(_watching(service, job_id)) for _ in range(WATCHERS)]
        assert [_next(each) for each in watching] == ["progress queued"] * WATCHERS
        before = _reads(redis.url())
        service.call("POST", f"/jobs/{job_id}/cancel", status=202)
        assert [_next(each) for each in watching] == ["end cancelled"] * WATCHERS
        assert not any(each.read().strip() for each in watching)
        assert _reads(redis.url()) - before < WATCHERS


def test_a_stream_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    """Its holder learns nothing more of the job."""
    with (
        redis_server(tmp_path) as redis,
        serving(redis.url(), tmp_path) as server,
        closing(connect(redis.url(), 5)) as client,
    ):
        service, watcher = server.as_one_who(Scope.READ, Scope.SUBMIT), server.as_one_who(Scope.READ)
        job_id = service.submit("pacs_tasks.echo", {})
        with _watching(watcher, job_id) as response:
            assert _next(response) == "progress queued"
            tokens = Tokens(client)
            tokens.revoke(tokens.all()[-1].name)
            wait_until(lambda: watcher.call("GET", "/jobs").status == 401, 5, "the token to be forgotten")
            service.call("POST", f"/jobs/{job_id}/cancel", status=202)
            assert response.read().strip() == b""


def test_a_browser_that_has_seen_the_end_stays_away(tmp_path: Path) -> None:
    """It comes back after each end of a stream until it gets 204. Another attempt has one of its own."""
    with redis_server(tmp_path) as redis, serving(redis.url(), tmp_path) as server:
        service = server.as_one_who(Scope.READ, Scope.SUBMIT)
        job_id = service.submit("pacs_tasks.echo", {})
        service.call("POST", f"/jobs/{job_id}/cancel", status=202)
        path = f"/jobs/{job_id}/events"
        assert service.call("GET", path, status=200).text.startswith("id: end-1\nevent: end\n")
        assert service.call("GET", path, None, {"Last-Event-ID": "end-1"}, status=204).content == b""
        service.call("GET", path, None, {"Last-Event-ID": "end-2"}, status=200)


def test_a_job_that_does_not_exist_is_not_followed(tmp_path: Path) -> None:
    """It is named, as by every other route."""
    with redis_server(tmp_path) as redis, serving(redis.url(), tmp_path) as server:
        problem = server.as_one_who(Scope.READ).call("GET", "/jobs/nonsense/events", status=404)
    assert problem.json["code"] == "JobNotFoundError"


def test_a_damaged_record_ends_no_stream_but_its_own(tmp_path: Path) -> None:
    """Somebody has written another type to the key of a job."""
    with (
        redis_server(tmp_path) as redis,
        serving(redis.url(), tmp_path) as server,
        closing(connect(redis.url(), 5)) as client,
    ):
        service = server.as_one_who(Scope.READ, Scope.SUBMIT)
        job_id = service.submit("pacs_tasks.echo", {})
        with _watching(service, job_id) as response:
            assert _next(response) == "progress queued"
            client.set(job_key("damaged"), "nonsense")
            assert service.call("GET", "/jobs/damaged/events").status >= 400
            service.call("POST", f"/jobs/{job_id}/cancel", status=202)
            assert _next(response) == "end cancelled"


def test_a_head_without_an_end_is_cut_off(tmp_path: Path) -> None:
    """Nobody fills the memory of the server with a header that never ends; a long body is no head."""
    with redis_server(tmp_path) as redis, serving(redis.url(), tmp_path) as server:
        with closing(socket.create_connection(("127.0.0.1", server.port), 10)) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Endless: ")
            with suppress(ConnectionError):
                for _ in range(64):
                    connection.sendall(b"x" * (1 << 16))
            with suppress(ConnectionError):
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
                assert connection.recv(1 << 16) == b""
        service = server.as_one_who(Scope.SUBMIT)
        long = {"task": "pacs_tasks.echo", "request": {"remote": {"host": "h" * 500_000}}}
        assert service.call("POST", "/jobs", long).status == 422
