"""The HTTP API as a process, and a service that calls it."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from typing import Any

from pacs_tasks.connection import connect
from pacs_tasks.ledger.tokens import Scope, Tokens
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, environment, started

#: Seconds that an answer may take.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Message
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Api:
    """A running API, called with one token."""

    port: int
    redis_url: str
    token: str = ""
    process_id: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def as_one_who(self, *scopes: Scope) -> Api:
        """The API, called with a new token of these scopes."""
        with closing(connect(self.redis_url, 5)) as client:
            tokens = Tokens(client)
            return replace(self, token=tokens.new(f"test-{len(tokens.all())}", scopes))

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, status: int = 0
    ) -> Answer:
        """Send a request, whose answer must be ``status`` if that is given. A body goes as JSON unless it is bytes."""
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)) as connection:
            connection.request(method, path, body, {**sent, **(headers or {})})
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        assert not status or answer.status == status, f"{method} {path}: {answer.status} {answer.text}"
        return answer

    def get(self, path: str) -> Any:
        """The document at a path, which is there."""
        return self.call("GET", path, status=200).json

    def submit(self, task: str, request: Mapping[str, Any], **more: Any) -> str:
        """Enqueue a request, and return the id of its job."""
        return str(self.call("POST", "/jobs", {"task": task, "request": request, **more}, status=202).json["job_id"])

    def follow(self, job_id: str) -> list[tuple[str, Any]]:
        """The events of a job until its end: name and data."""
        answer = self.call("GET", f"/jobs/{job_id}/events", status=200)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = [dict(line.split(": ", 1) for line in each.splitlines()) for each in answer.text.split("\n\n") if each]
        return [(each["event"], json.loads(each["data"])) for each in events if "event" in each]


@contextmanager
def serving(redis_url: str, directory: Path, limit_of_files: int | None = None, /, **settings: str) -> Iterator[Api]:
    """A ``pacs-tasks serve`` that answers; ``settings`` are ``PACS_TASKS_*`` variables in full."""
    port = free_port()
    variables = environment(
        PACS_TASKS_REDIS_URL=redis_url,
        PACS_TASKS_DATA_DIR=str(directory / "data"),
        PACS_TASKS_SERVE_PORT=str(port),
        **settings,
    )
    command = [sys.executable, "-m", "pacs_tasks.serve"]
    if limit_of_files is not None:
        command = ["sh", "-c", f'ulimit -n {limit_of_files} && exec "$@"', "sh", *command]
    with started(
        command, directory / "serve.log", lambda _: answers(port), env=variables, cwd=ROOT, timeout=60
    ) as process:
        yield Api(port, redis_url, process_id=process.pid)
