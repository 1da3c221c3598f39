"""Raw messages of the queues, of remote control and of events, changed outside and within their bodies."""

from __future__ import annotations

import base64
import json
import zlib
from contextlib import suppress
from functools import cache
from random import Random
from typing import Any, Final

from pacs_tasks.errors import MessageError
from pacs_tasks.messages import envelope
from tests.fuzz.encoded import disturbed
from tests.support import poison


def _echo(request: Any = None) -> None:
    """The parameters of a task."""


def _part(job_id: str, start: int, stop: int, tries: int = 0) -> None:
    """Those of a part."""


_TASKS: Final[envelope.Tasks] = {"pacs_tasks.echo": _echo, "pacs_tasks.store_part": _part}


@cache
def _honest() -> tuple[bytes, ...]:
    return (
        poison.task([[], {"request": {"ae": "x"}}, {}]),
        poison.task([["a", 0, 1], {"tries": 1}, {}], name="pacs_tasks.store_part"),
        poison.task(zlib.compress(b"[[],{},{}]"), compression="gzip"),
        poison.task([[], {}, {}], eta="2026-01-01T00:00:00+00:00", expires="2030-01-01T00:00:00"),
        poison.envelope({"method": "ping", "arguments": {}, "destination": None}),
        poison.envelope([{"type": "worker-heartbeat", "hostname": "a@b", "timestamp": 1.0}]),
    )


def check(chance: Random) -> None:
    """A message is served, or a dead letter with a reason that quotes nothing of it."""
    raw = chance.choice(_honest())
    if chance.random() < 0.5:
        message = json.loads(raw)
        body = disturbed(chance, base64.b64decode(message["body"]))
        raw = json.dumps({**message, "body": base64.b64encode(body).decode()}).encode()
    if chance.random() < 0.7:
        raw = disturbed(chance, raw)
    with suppress(MessageError):
        envelope.about(poison.read_task(raw, _TASKS, poison.SIZE))
    with suppress(MessageError):
        envelope.check_command(envelope.read_envelope(raw, poison.SIZE), {"ping"})
    with suppress(MessageError):
        envelope.check_events(envelope.read_envelope(raw, poison.SIZE))
