"""Messages that no honest publisher sends: to the task queues, to remote control, and as events."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import uuid
import zlib
from functools import cache
from typing import Any, Final

from pacs_tasks.messages.envelope import Envelope, Tasks, check_task, read_envelope

#: In each of them, wherever it can be: a patient's name, which nothing may show.
NAME: Final = "Planted^Patient"

#: Tasks that every app of Celery has, and options of a task that follows with values that it cannot have.
_CELERY: Final = (
    "accumulate",
    "map",
    "starmap",
    "chunks",
    "group",
    "chain",
    "chord",
    "chord_unlock",
    "backend_cleanup",
)
_OPTIONS: Final = (
    ("serializer", NAME), ("compression", NAME), ("eta", NAME), ("expires", NAME), ("countdown", 1e300),
    ("queue", [NAME]), ("priority", NAME), ("headers", NAME), ("task_id", [NAME]), ("connection", NAME),
    ("producer", NAME), ("declare", [NAME]), ("retry_policy", {"a": NAME}), ("link", 5),
)  # fmt: skip
_FOLLOWING: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
#: Far more than any limit, once it is decompressed.
BOMB: Final = 48 << 20
#: The limit that all of them exceed or keep.
SIZE: Final = 16 << 20


def envelope(content: Any, *, headers: Any = None, properties: Any = None, changes: Any = None) -> bytes:
    """A message as kombu writes it, with changes; what is ``...`` is left out."""
    body = base64.b64encode(content if isinstance(content, bytes) else json.dumps(content).encode()).decode()
    message = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {} if headers is None else headers,
        "properties": {
            "delivery_mode": 2,
            "delivery_tag": uuid.uuid4().hex,
            "delivery_info": {"exchange": "", "routing_key": "pacs_tasks.find"},
            "priority": 0,
            "body_encoding": "base64",
            **(properties or {}),
        },
    }
    return json.dumps({name: value for name, value in (message | (changes or {})).items() if value is not ...}).encode()


def task(
    content: Any = None, *, name: Any = "pacs_tasks.echo", properties: Any = None, changes: Any = None, **headers: Any
) -> bytes:
    """The message of a task (protocol 2) with other headers; those that are ``...`` are left out."""
    content = [[], {"request": {"local": {"ae_title": NAME}}}, _FOLLOWING] if content is None else content
    known = {"lang": "py", "task": name, "id": uuid.uuid4().hex, "retries": 0, "timelimit": [None, None],
             "eta": None, "expires": None, "argsrepr": NAME, "kwargsrepr": NAME, "origin": "gen1@here"}  # fmt: skip
    kept = {key: value for key, value in (known | headers).items() if value is not ...}
    return envelope(content, headers=kept, properties=properties, changes=changes)


def _nested(depth: int, *, objects: bool = False) -> Any:
    value: Any = NAME
    for _ in range(depth):
        value = {"a": value} if objects else [value]
    return value


def _deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def _twice(value: bytes) -> bytes:
    return bz2.compress(value) + bz2.compress(b"0" * BOMB)


def _with_request(value: Any) -> list[Any]:
    return [[], {"request": value}, _FOLLOWING]


@cache
def tasks() -> dict[str, bytes]:
    """Messages for a task queue, by kind: each is refused and ends no worker."""
    whole = task()
    one = {"task": NAME, "args": [], "kwargs": {}, "options": {}}
    first = {"task": "pacs_tasks.echo", "id": "v1", "args": [], "kwargs": {}}
    return {
        "no JSON": NAME.encode(),
        "not UTF-8": b'"\xff\xfe' + NAME.encode() + b'"',
        "empty": b"",
        "cut off": whole[:-40],
        "twice": whole + whole,
        "NUL": b"\0" * 100,
        "number": b"7",
        "text": json.dumps(NAME).encode(),
        "list": json.dumps([NAME]).encode(),
        "null": b"null",
        "deep envelope": _deep(100_000),
        "deep header": task(trace=_nested(500)),
        "deep request, 500 lists": task(_with_request(_nested(500))),
        "deep request, 500 objects": task(_with_request(_nested(500, objects=True))),
        "deep request, 100,000": task(b'[[],{"request":' + _deep(100_000) + b"}, {}]"),
        "many values": task(b"[[" + b"{}," * 3_200_000 + b"0],{},{}]"),
        "no body": envelope(None, headers=json.loads(whole)["headers"]).replace(b'"body"', b'"nobody"'),
        "body null": task(changes={"body": None}),
        "body number": task(changes={"body": 7}),
        "body list": task(changes={"body": [NAME]}),
        "body empty": task(changes={"body": ""}),
        "body not Base64": task(changes={"body": f"{NAME}%"}),
        "body no JSON": task(NAME.encode()),
        "body pickle": task(b"\x80\x04]\x94."),
        "body number in JSON": task(5),
        "body null in JSON": task(b"null"),
        "body short": task([[], {}]),
        "args an object": task([{"a": NAME}, {}, {}]),
        "kwargs a list": task([[], [NAME], {}]),
        "following a text": task([[], {}, NAME]),
        "callbacks a number": task([[], {}, {"callbacks": 5}]),
        "callbacks of lists": task([[], {}, {"callbacks": [[NAME]]}]),
        "errbacks a text": task([[], {}, {"errbacks": NAME}]),
        "chain of texts": task([[], {}, {"chain": [NAME]}]),
        "callback of no task": task([[], {}, {"callbacks": [{}]}]),
        "callback without options": task([[], {}, {"callbacks": [one | {"options": None}]}]),
        "errback with a text for arguments": task([[], {}, {"errbacks": [one | {"args": NAME}]}]),
        "chain of a number": task([[], {}, {"chain": [one | {"task": 5}]}]),
        "chord without arguments": task([[], {}, {"chord": {"task": NAME}}]),
        "chord a list": task([[], {}, {"chord": [one]}]),
        **{f"task {name}": task([[NAME], {}, {}], name=f"celery.{name}") for name in _CELERY},
        **{
            f"callback with {name}": task([[], {}, {"callbacks": [one | {"options": {name: wrong}}]}])
            for name, wrong in _OPTIONS
        },
        "chord with a serializer": task([[], {}, {"chord": one | {"options": {"serializer": NAME}}}]),
        "chain with a serializer": task([[], {}, {"chain": [one | {"options": {"serializer": NAME}}]}]),
        "errback with a serializer": task([[], {}, {"errbacks": [one | {"options": {"serializer": NAME}}]}]),
        "callback of a callback": task(
            [[], {}, {"callbacks": [one | {"options": {"link": [one | {"options": {"eta": NAME}}]}}]}]
        ),
        "callback of no known type": task([[], {}, {"callbacks": [one | {"subtask_type": NAME}]}]),
        "callback a group of no list": task(
            [[], {}, {"callbacks": [one | {"subtask_type": "group", "kwargs": {"tasks": NAME}}]}]
        ),
        "callback a chord of a text": task(
            [
                [],
                {},
                {"callbacks": [one | {"subtask_type": "chord", "kwargs": {"kwargs": {"header": NAME, "body": 5}}}]},
            ]
        ),
        "callback a chain of the wrong": task(
            [
                [],
                {},
                {
                    "callbacks": [
                        one | {"subtask_type": "chain", "kwargs": {"tasks": [one | {"options": {"queue": [NAME]}}]}}
                    ]
                },
            ]
        ),
        "decimal of a million digits": task(_with_request({"__type__": "decimal", "__value__": "1e100000000"})),
        "decimal a text": task(_with_request({"__type__": "decimal", "__value__": NAME})),
        "NaN": task(b'[[],{"request":{"timeout":NaN}},{}]'),
        "Infinity in priority": whole.replace(b'"priority": 0', b'"priority": Infinity'),
        "huge integer": whole.replace(b'"retries": 0', b'"retries": ' + b"9" * 5000),
        "type of kombu": task(b'[[],{"request":{"__type__":"datetime","__value__":5}},{}]'),
        "unknown type of kombu": task(b'[[],{"request":{"__type__":"Planted^Patient","__value__":5}},{}]'),
        "no properties": task(changes={"properties": ...}),
        "properties a list": task(changes={"properties": [NAME]}),
        "no delivery tag": whole.replace(b"delivery_tag", b"delivery_gat"),
        "delivery tag an object": task(properties={"delivery_tag": {"a": NAME}}),
        "no delivery info": whole.replace(b"delivery_info", b"delivery_onfi"),
        "delivery info a text": task(properties={"delivery_info": NAME}),
        "no route": task(properties={"delivery_info": {}}),
        "body encoding unknown": task(properties={"body_encoding": "rot13"}),
        "body encoding a number": task(properties={"body_encoding": 64}),
        "correlation id an object": task(properties={"correlation_id": {}}),
        "content type pickle": task(changes={"content-type": "application/x-python-serialize"}),
        "content type trusted": task(changes={"content-type": "application/data"}),
        "content type null": task(changes={"content-type": None}),
        "content type a list": task(changes={"content-type": [NAME]}),
        "content encoding a number": task(changes={"content-encoding": 5}),
        "content encoding unknown": task(changes={"content-encoding": NAME}),
        "headers null": task(changes={"headers": None}),
        "headers a list": task(changes={"headers": [NAME]}),
        "headers a text": task(changes={"headers": NAME}),
        "no task": task(name=...),
        "task unknown": task(name=NAME),
        "task null": task(name=None),
        "task a list": task(name=[NAME]),
        "task an object": task(name={"a": NAME}),
        "no id": task(id=...),
        "id null": task(id=None),
        "id a list": task(id=[NAME]),
        "id a surrogate": task(id="\ud800"),
        "id with a line break": task(id=f"{NAME}\n"),
        "id long": task(id="x" * 100_000),
        "id of another key": task(id="job:claims"),
        "root id an object": task(root_id={}),
        "eta a text": task(eta=NAME),
        "eta empty": task(eta=""),
        "eta a number": task(eta=5),
        "eta before all calendars": task(eta="0001-01-01T00:00:00+23:59"),
        "expires a text": task(expires=NAME),
        "expires a list": task(expires=[NAME]),
        "expires after all calendars": task(expires="9999-12-31T23:59:59-23:59"),
        "retries a text": task(retries=NAME),
        "retries huge": task(retries=10**400),
        "time limit a number": task(timelimit=5),
        "time limit of texts": task(timelimit=[NAME, NAME]),
        "time limit of three": task(timelimit=[1, 2, 3]),
        "time limit negative": task(timelimit=[-1, -1]),
        "stamps of lists": task(stamped_headers=[[NAME]], stamps={}),
        "stamps a text": task(stamped_headers=["a"], stamps=NAME),
        "header of Celery": task(update=NAME),
        "more arguments": task([[1, 2, NAME], {}, {}]),
        "unknown argument": task([[], {NAME: 1}, {}]),
        "part of texts": task([[NAME], {}, {}], name="pacs_tasks.store_part"),
        "gzip bomb": task(gzip.compress(b"0" * BOMB), compression="gzip"),
        "zlib bomb": task(zlib.compress(b"0" * BOMB), compression="application/x-gzip"),
        "bzip2 bomb": task(bz2.compress(b"0" * BOMB), compression="bzip2"),
        "bzip2 bomb behind another stream": task(_twice(json.dumps(_with_request(None)).encode()), compression="bzip2"),
        "lzma bomb": task(lzma.compress(b"0" * BOMB), compression="xz"),
        "zstd": task(b"\x28\xb5\x2f\xfd" + NAME.encode(), compression="zstd"),
        "compression unknown": task(compression=NAME),
        "compression a list": task(compression=[NAME]),
        "not compressed": task(NAME.encode(), compression="gzip"),
        "protocol 1, nothing": envelope(NAME),
        "protocol 1, no task": envelope({"a": NAME}),
        "protocol 1, args a text": envelope(first | {"args": NAME}),
        "protocol 1, eta": envelope(first | {"eta": NAME}),
        "protocol 1, callbacks": envelope(first | {"callbacks": NAME}),
        "both protocols": envelope(first | {"expires": NAME}, headers={"task": "pacs_tasks.echo", "id": "v12"}),
    }


@cache
def commands() -> dict[str, bytes]:
    """Messages for remote control, by kind."""
    command: dict[str, Any] = {"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None}
    bad = envelope({"method": NAME})
    return {
        "no JSON": NAME.encode(),
        "deep": _deep(100_000),
        "list": json.dumps([NAME]).encode(),
        "no properties": json.dumps({"body": NAME}).encode(),
        "body a list": envelope([NAME]),
        "method unknown": bad,
        "method a list": envelope(command | {"method": [NAME]}),
        "arguments a text": envelope(command | {"arguments": NAME}),
        "arguments of no command": envelope(command | {"arguments": {NAME: 1}}),
        "destination a number": envelope(command | {"destination": 5}),
        "pattern without end": envelope(command | {"pattern": "(a+)+$", "matcher": "pcre"}),
        "reply to a text": envelope(command | {"reply_to": NAME}),
        "clock a text": envelope(command, headers={"clock": NAME}),
        "clock huge": envelope(command, headers={"clock": 10**300}),
        "bomb": envelope(gzip.compress(b"0" * BOMB), headers={"compression": "gzip"}),
        "hello from no worker": envelope(command | {"method": "hello", "arguments": {"from_node": NAME}}),
        "terminate by an unknown signal": envelope(
            command | {"method": "revoke", "arguments": {"task_id": "a", "terminate": True, "signal": NAME}}
        ),
        "stop": envelope(
            command | {"method": "revoke", "arguments": {"task_id": "a", "terminate": "1", "signal": "STOP"}}
        ),
        "stop by stamps": envelope(
            command
            | {
                "method": "revoke_by_stamped_headers",
                "arguments": {"headers": {"a": NAME}, "terminate": True, "signal": "STOP"},
            }
        ),
        "terminate": envelope(command | {"method": "terminate", "arguments": {"task_id": "a", "signal": "KILL"}}),
        **{name: envelope(command | {"method": name}) for name in ("shutdown", "pool_shrink", "pool_restart")},
        "pool_grow": envelope(command | {"method": "pool_grow", "arguments": {"n": 1000}}),
        "cancel_consumer": envelope(command | {"method": "cancel_consumer", "arguments": {"queue": "pacs_tasks.find"}}),
        "rate_limit": envelope(
            command | {"method": "rate_limit", "arguments": {"task_name": "pacs_tasks.echo", "rate_limit": "1/h"}}
        ),
    }


@cache
def events() -> dict[str, bytes]:
    """Events, by kind."""
    good = {"type": "worker-heartbeat", "hostname": "celery@there", "timestamp": 1.0, "clock": 1, "pid": 1}
    return {
        "no JSON": NAME.encode(),
        "deep": _deep(100_000),
        "text": envelope(NAME),
        "no type": envelope({"hostname": NAME}),
        "type a list": envelope(good | {"type": [NAME]}),
        "host a list": envelope(good | {"hostname": [NAME]}),
        "time a text": envelope(good | {"timestamp": NAME}),
        "clock a text": envelope(good | {"clock": NAME}),
        "task without an id": envelope(good | {"type": "task-sent", "args": NAME}),
        "election": envelope({"id": NAME, "topic": "task", "action": {"task": NAME}}),
        "list of texts": envelope([NAME]),
        "in Celery's headers": envelope([good], headers={"hostname": [NAME]}),
    }


def read_task(raw: bytes, known: Tasks, size: int) -> Envelope:
    """Read a message as a worker that knows these tasks does."""
    found = read_envelope(raw, size)
    check_task(found, known)
    return found
