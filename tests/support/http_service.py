"""An HTTP service that answers as a test wants: with a status, slowly, or not at all."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    def is_signed(self, secret: str) -> bool:
        """Whether the signature is right, as any library of Standard Webhooks decides it."""
        given = self.headers
        signed = f"{given['webhook-id']}.{given['webhook-timestamp']}.".encode() + self.body
        digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        return given["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


#: Answers one request: with a status code, or by itself.
Answer = Callable[[BaseHTTPRequestHandler, int], int | None]


@dataclass
class Service:
    """A running service; ``answers`` may be replaced at any time. It answers 204 where nothing else is said.

    The second argument of an answer is the number of requests for that path so far, from 1.
    """

    url: str
    answers: dict[str, Answer]
    ended: threading.Event = field(default_factory=threading.Event)
    received: list[Received] = field(default_factory=list)

    def at(self, path: str) -> list[Received]:
        """The requests for one path, in order."""
        return [each for each in self.received if each.path == path]


@contextmanager
def service(answers: Mapping[str, Answer] | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    """A service on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            running.received.append(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            answer = running.answers.get(self.path)
            status = answer(self, len(running.at(self.path))) if answer else 204
            if status is not None:
                self.send_response(status)
                self.send_header("Location", f"{running.url}/elsewhere")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A caller that hangs up, or does not trust us, is what some tests are about."""

    server = Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    running = Service(f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}", dict(answers or {}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield running
    finally:
        running.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
