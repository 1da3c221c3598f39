"""The judge of raw messages."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import time
import tracemalloc
import uuid
import zlib
from collections.abc import Callable
from typing import Any, get_args

import pytest
from celery import Celery, chain, chord, group, signature
from kombu.compression import compress

from pacs_tasks.errors import MessageError
from pacs_tasks.messages import envelope
from pacs_tasks.messages.shapes import Compression
from tests.support import poison

_SIZE = 1 << 20
_UUID = uuid.uuid4()
_TYPED = {"__type__": "uuid", "__value__": {"hex": _UUID.hex, "version": 4}}
_FIRST = {"task": "pacs_tasks.echo", "args": [], "kwargs": {}}


def _echo(request: Any = None) -> None:
    """The parameters of a task."""


def _part(job_id: str, start: int, stop: int, tries: int = 0) -> None:
    """Those of a part."""


_TASKS: envelope.Tasks = {"pacs_tasks.echo": _echo, "pacs_tasks.store_part": _part}
_COMMANDS = {"hello", "ping", "revoke", "revoke_by_stamped_headers"}


@pytest.mark.parametrize("kind", poison.tasks())
def test_a_malformed_message_is_refused_in_words_that_quote_nothing(kind: str) -> None:
    with pytest.raises(MessageError) as raised:
        poison.read_task(poison.tasks()[kind], _TASKS, poison.SIZE)
    assert poison.NAME not in str(raised.value)
    assert raised.value.__cause__ is None


# Celery itself refuses the one that is left out, and its line in the log is kept private.
@pytest.mark.parametrize("kind", [kind for kind in poison.commands() if kind != "arguments of no command"])
def test_a_malformed_command_is_refused(kind: str) -> None:
    with pytest.raises(MessageError) as raised:
        envelope.check_command(envelope.read_envelope(poison.commands()[kind], _SIZE), _COMMANDS)
    assert poison.NAME not in str(raised.value)


def test_a_worker_may_say_hello() -> None:
    command = poison.envelope({"method": "hello", "arguments": {"from_node": "one@ward-3.example", "revoked": {}}})
    envelope.check_command(envelope.read_envelope(command, _SIZE), _COMMANDS)


@pytest.mark.parametrize("compression", get_args(Compression))
def test_what_follows_may_be_compressed_as_a_task_may(compression: str) -> None:
    follows = signature("pacs_tasks.echo", options={"compression": compression})
    body = [[], {}, {"callbacks": [dict(follows)], "errbacks": None, "chain": None, "chord": None}]
    packed = compress(json.dumps(body), compression)[0]
    raw = poison.envelope(packed, headers={"id": "a", "task": "pacs_tasks.echo", "compression": compression})
    assert poison.read_task(raw, _TASKS, _SIZE).content[2]["callbacks"][0]["options"] == {"compression": compression}


def test_a_task_may_be_revoked_as_celery_does_it() -> None:
    arguments = {"task_id": "a", "terminate": False, "signal": "SIGTERM"}
    command = poison.envelope({"method": "revoke", "arguments": arguments})
    envelope.check_command(envelope.read_envelope(command, _SIZE), _COMMANDS)


@pytest.mark.parametrize("kind", poison.events())
def test_a_malformed_event_is_refused(kind: str) -> None:
    with pytest.raises(MessageError) as raised:
        envelope.check_events(envelope.read_envelope(poison.events()[kind], _SIZE))
    assert poison.NAME not in str(raised.value)


@pytest.mark.parametrize("pack", [zlib.compress, bz2.compress, lzma.compress])
def test_a_bomb_takes_little_memory_and_time(pack: Callable[[bytes], bytes]) -> None:
    name = {"zlib": "gzip", "bz2": "bzip2", "lzma": "xz"}[pack.__module__.split(".")[-1]]
    raw = poison.task(pack(b"0" * poison.BOMB), compression=name)
    begun = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match="decompressed"):
            poison.read_task(raw, _TASKS, _SIZE)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 5


def test_a_message_larger_than_allowed_is_refused() -> None:
    with pytest.raises(MessageError, match="PACS_TASKS_MESSAGE_SIZE"):
        poison.read_task(poison.task(), _TASKS, 100)


@pytest.mark.parametrize(
    "raw",
    [
        poison.task([[], {"request": {"ae": "x"}}, {}]),
        poison.task([[{"ae": "x"}], {}, None]),
        poison.task(zlib.compress(b"[[],{},{}]"), compression="gzip"),
        poison.task([[], {}, {}], eta="2026-01-01T00:00:00+00:00", expires="2030-01-01T00:00:00"),
        poison.task(["a", 0, 1] and [["a", 0, 1], {"tries": 1}, {}], name="pacs_tasks.store_part"),
        poison.task([[], {"request": poison._nested(80)}, {}]),
        poison.task([[], {"request": "[[[" * 1000}, {}]),
        poison.task([[], {"request": '\\"[{' * 1000}, {}]),
        poison.task([[], {}, {}], trace={"parent": "00-1"}, id="0", timelimit=[10.5, None]),
        poison.envelope({"task": "pacs_tasks.echo", "id": "v1", "args": [], "kwargs": {}}),
    ],
)
def test_what_honest_publishers_send_passes(raw: bytes) -> None:
    found = poison.read_task(raw, _TASKS, _SIZE)
    assert envelope.about(found)[0] in _TASKS
    assert json.loads(base64.b64decode(found["body"])) == found.content


@pytest.mark.parametrize("raw", [poison.task(id=_TYPED), poison.envelope(_FIRST | {"id": _TYPED})])
def test_an_id_that_is_a_uuid_becomes_text_as_redis_needs_it(raw: bytes) -> None:
    found = poison.read_task(raw, _TASKS, _SIZE)
    assert (found["headers"] | (found.content if isinstance(found.content, dict) else {}))["id"] == str(_UUID)


@pytest.mark.parametrize(
    "raw",
    [
        poison.task(timelimit=[0.05, None]),
        poison.envelope(_FIRST | {"id": "v1", "timelimit": [0.05, None]}),
        poison.envelope(_FIRST | {"id": "v1", "timelimit": [None, 1]}, headers={"timelimit": [0.05, 1]}),
    ],
    ids=["protocol 2", "protocol 1", "both"],
)
def test_a_task_brings_no_time_limit(raw: bytes) -> None:
    """Its process, which ends with it, has other tasks in the background."""
    found = poison.read_task(raw, _TASKS, _SIZE)
    envelope.drop_time_limits(found)
    assert "timelimit" not in found["headers"]
    assert "timelimit" not in found.content


def test_the_job_of_a_message_whose_body_is_refused_is_known() -> None:
    found = envelope.read_outside(poison.tasks()["deep request, 500 objects"], _SIZE)
    with pytest.raises(MessageError, match="nested"):
        envelope.read_body(found, _SIZE)
    assert envelope.about(found) == ("pacs_tasks.echo", found["headers"]["id"])


def test_what_celery_publishes_passes() -> None:
    """Canvases of other services, by Celery's own writer."""
    published: list[bytes] = []
    with Celery("another", broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        echo = signature("pacs_tasks.echo", kwargs={"request": {}}, app=app, queue="any")
        note = signature("other.note", args=[1], app=app, queue="other")
        echo.apply_async(link=note, link_error=note, countdown=10, expires=60, time_limit=5, priority=3)
        chain(echo, note, group(note, note), note).apply_async()
        chord([echo, echo], note).apply_async(task_id="body")
        echo.stamp(who="me").apply_async(compression="zlib")
        with app.connection() as connection:
            queue = connection.SimpleQueue("any").queue
            channel = connection.default_channel
            while (found := channel._size("any")) > 0 and queue is not None:
                published += [json.dumps(channel._get("any")).encode() for _ in range(found)]
    assert len(published) == 5
    for raw in published:
        poison.read_task(raw, _TASKS, _SIZE)
