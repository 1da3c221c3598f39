"""Raw messages of the queues, of remote control and of events, judged before Celery and kombu act on them.

Celery trusts its broker: an error in a message's envelope ends the worker, the message comes back, and the next worker
ends. So each message is read here first. What passes has the shape of Celery's task protocol (version 2, or 1 from old
clients), is nested little and small enough, also after it is decompressed. The functions are pure and raise nothing but
:class:`~pacs_tasks.errors.MessageError`. :class:`PrivateRequest` hides what it holds from those who watch.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import json
import lzma
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NoReturn, Protocol, TypeVar, cast
from uuid import UUID

from celery.app.task import Context
from celery.worker.request import Request
from kombu.utils.json import object_hook
from pydantic import BaseModel, ValidationError

from pacs_tasks.errors import MessageError
from pacs_tasks.messages.shapes import Command, ControlHeaders, EnvelopeShape, Event, Following, TaskFields
from pacs_tasks.messages.shown import checked, shown_arguments, shown_result

#: Levels of lists and objects. Celery and pickle fail at some 300; a request has 6, a canvas of tasks some 30.
DEEPEST: Final = 100
#: Values, names and members in a message, which bound the memory that its objects need: 100,000 rows have a million.
MOST_ITEMS: Final = 3_000_000
#: Bytes that LZMA may take for its dictionary.
_LZMA_MEMORY: Final = 64 << 20
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
#: What a decimal number of kombu may be.
_DECIMAL = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?", re.ASCII)
#: The name of a worker, which the others log.
_NODE = re.compile(r"[\w.%-]{1,100}@[\w.%-]{1,255}", re.ASCII)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
#: Header names that would take the place of a method of the task's request.
_METHODS = frozenset(name for name in dir(Context) if callable(getattr(Context, name)) or name == "children")

#: The tasks of a worker: by name, a function with the same parameters.
Tasks = Mapping[str, Callable[..., object]]
_T = TypeVar("_T", bound=BaseModel)


class _Inflater(Protocol):
    """An incremental decompressor of the standard library."""

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_INFLATERS: Final[dict[str, Callable[[], _Inflater]]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), zlib.decompressobj),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), bz2.BZ2Decompressor),
    **dict.fromkeys(("application/x-lzma", "lzma", "xz"), lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)),
}


class Envelope(dict[str, Any]):
    """A message as kombu takes it."""

    #: Its body, decoded.
    content: Any = None


def read_envelope(raw: bytes, size: int) -> Envelope:
    """Read the envelope of any message, and its body."""
    found = read_outside(raw, size)
    read_body(found, size)
    return found


def read_outside(raw: bytes, size: int) -> Envelope:
    """Read the envelope of any message, and leave its body as it is."""
    if len(raw) > size:
        raise MessageError(
            f"The message has more than {size:,} bytes. Send less in one request, or raise PACS_TASKS_MESSAGE_SIZE."
        )
    value = _parsed(raw)
    _checked(EnvelopeShape, value, "envelope")
    return Envelope(value)


def read_body(found: Envelope, size: int) -> None:
    """Read the body of a message. A compressed body is replaced by what it contains."""
    body = _decoded(found)
    compression = found["headers"].get("compression")
    if compression is not None:
        body = _inflated(body, compression, size)
        del found["headers"]["compression"]
        found["properties"]["body_encoding"] = "base64"
        found["body"] = base64.b64encode(body).decode()
    found.content = _parsed(body)


def check_task(message: Envelope, tasks: Tasks) -> None:
    """Raise :class:`MessageError` unless the message of a task is one that Celery can serve."""
    headers, content = message["headers"], message.content
    if not _METHODS.isdisjoint(headers):
        raise MessageError("A header of the message has a name that Celery uses itself. Rename it.")
    fields = headers
    if "task" not in headers or isinstance(content, dict):
        # Protocol 1, or both at once: Celery merges them.
        if not isinstance(content, dict):
            raise MessageError("The message does not name a task. Enqueue tasks with Celery.")
        fields = {**content, **headers}
        args, kwargs, following = content.get("args", []), content.get("kwargs", {}), content
    else:
        args, kwargs, following = _protocol_2(content)
    known = _checked(TaskFields, fields, "header")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise MessageError("The arguments of the task are not a list and an object. Enqueue tasks with Celery.")
    _checked(Following, following, "body")
    if isinstance(fields["id"], UUID):
        # Celery accepts one from those who enqueue, and Redis none.
        holder = headers if "id" in headers else content
        holder["id"] = str(known.id)
    task = tasks.get(known.task)
    if task is None:
        raise MessageError("No task of pacs-tasks has this name. Correct it: docs/reference/tasks lists all.")
    try:
        task(*args, **kwargs)
    except TypeError:
        raise MessageError(
            "The task does not have these arguments. Correct them: docs/reference/tasks lists all."
        ) from None


def about(message: Envelope) -> tuple[str, str]:
    """The names of the task and of the job of a message that may be wrong elsewhere; empty where they are not valid."""
    content = message.content if isinstance(message.content, dict) else {}
    fields = {name: message["headers"].get(name, content.get(name)) for name in ("task", "id")}
    try:
        known = TaskFields.model_validate(fields)
    except ValidationError:
        return "", ""
    return known.task, str(known.id)


def shown(message: Envelope) -> tuple[str, str]:
    """Give what is shown instead of the arguments of a task whose message was checked."""
    task, task_id = about(message)
    args = message.content.get("args", []) if isinstance(message.content, dict) else message.content[0]
    return shown_arguments(task, task_id, args)


class PrivateRequest(Request):  # type: ignore[misc]  # Celery ships no annotations
    """A task message of which events, log lines and `inspect` show only what is harmless, whoever published it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fields = self._request_dict
        fields |= {name: checked(fields.get(name)) for name in ("argsrepr", "kwargsrepr")}
        self._argsrepr, self._kwargsrepr = fields["argsrepr"], fields["kwargsrepr"]

    def info(self, *_: Any, **__: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", super().info(safe=True))

    def send_event(self, event: str, **fields: Any) -> None:
        """Send an event. A job that did not do all has failed for whoever watches, although Celery has its summary."""
        if event == "task-succeeded":
            good, result = shown_result(self.name, fields["result"])
            fields["result"] = result
            if not good:
                event, fields["exception"] = "task-failed", result
        super().send_event(event, **fields)


def drop_time_limits(message: Envelope) -> None:
    """Remove the time limits of a task; those of the app remain.

    At the hard limit its process is killed, which runs other tasks in the background. The signal of the soft limit may
    come when the task has just ended, and ends the process as well.
    """
    for each in (message["headers"], message.content):
        if isinstance(each, dict):
            each.pop("timelimit", None)


def check_command(message: Envelope, commands: Collection[str]) -> None:
    """Raise :class:`MessageError` unless the message is one of these commands of remote control."""
    _checked(ControlHeaders, message["headers"], "header")
    command = _checked(Command, message.content, "body")
    # A process does not run one task alone, so none is ended for the sake of one.
    arguments = command.arguments or {}
    if command.method == "hello" and not _NODE.fullmatch(str(arguments.get("from_node"))):
        raise MessageError("The message is not from a worker. Look for what else writes to this Redis.")
    if command.method not in commands or arguments.get("terminate"):
        raise MessageError("Workers do not obey this command of remote control. Stop workers where they run.")


def check_reply(message: Envelope) -> None:
    """Raise :class:`MessageError` unless the message is an answer to a command of remote control."""
    _checked(ControlHeaders, message["headers"], "header")
    if not isinstance(message.content, dict):
        raise MessageError("The answer of a worker is not an object. Look for what else writes to this Redis.")


def check_events(message: Envelope) -> None:
    """Raise :class:`MessageError` unless the message is an event or a list of events that Flower can keep."""
    _checked(ControlHeaders, message["headers"], "header")
    events = message.content if isinstance(message.content, list) else [message.content]
    for each in events:
        event = _checked(Event, each, "body")
        if event.type.startswith("task-") and event.uuid is None:
            raise MessageError("The event of a task lacks its id. Look for what else writes to this Redis.")


def _protocol_2(content: Any) -> tuple[Any, Any, Any]:
    if not isinstance(content, list) or len(content) != 3:
        raise MessageError("The body is not a list of arguments, named arguments and options. Use Celery to enqueue.")
    args, kwargs, following = content
    return args, kwargs, {} if following is None else following


def _checked(shape: type[_T], value: Any, where: str) -> _T:
    """Validate a part of a message. The error names a field of the protocol, never what the message has there."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        # Only names of fields of ours: what stands below them may be private.
        wrong = str((*error.errors(include_url=False, include_input=False)[0]["loc"], "its type")[0])
        raise MessageError(
            f"Celery cannot serve the {where} of the message ({wrong}). Enqueue tasks with Celery, and do not change "
            "its messages."
        ) from None
    except OverflowError:
        raise MessageError("The message has a time that no calendar has. Correct eta and expires.") from None


def _decoded(found: Envelope) -> bytes:
    """The bytes of the body."""
    try:
        body: bytes = found["body"].encode()
        return base64.b64decode(body) if found["properties"].get("body_encoding") == "base64" else body
    except (UnicodeEncodeError, binascii.Error):
        raise MessageError("The body of the message is not Base64. Enqueue tasks with Celery.") from None


def _inflated(body: bytes, compression: Any, size: int) -> bytes:
    """Decompress a body, but never more than ``size`` bytes of it."""
    make = _INFLATERS.get(compression) if isinstance(compression, str) else None
    if make is None:
        raise MessageError("The message is compressed in a way that workers do not read. Use gzip, bzip2 or lzma.")
    inflater = make()
    try:
        found = inflater.decompress(body, size + 1)
    except (OSError, EOFError, ValueError, MemoryError, zlib.error, lzma.LZMAError):
        raise MessageError("The body of the message cannot be decompressed. Enqueue the task again.") from None
    if len(found) > size or inflater.unused_data:
        raise MessageError(
            f"The message has more than {size:,} bytes when it is decompressed. Send less in one request, or raise "
            "PACS_TASKS_MESSAGE_SIZE."
        )
    return found


def _parsed(text: bytes) -> Any:
    """Read JSON that is neither deep nor crowded."""
    _check_nesting(text)
    try:
        return json.loads(text.decode(), object_hook=_typed, parse_constant=_refuse_constant)
    except MessageError:
        raise
    except Exception:  # noqa: BLE001 - types of kombu raise whatever their constructors raise
        raise MessageError("The message is not JSON in UTF-8. Enqueue tasks with Celery.") from None


def _typed(found: dict[str, Any]) -> Any:
    """A value of a type that JSON does not have, as kombu writes it."""
    if found.get("__type__") == "decimal" and not _DECIMAL.fullmatch(str(found.get("__value__"))):
        # With an exponent, a few bytes are an integer of a million digits.
        raise MessageError("The message has a decimal number that no request needs. Send it as a number of JSON.")
    return object_hook(found)


def _refuse_constant(_: str) -> NoReturn:
    raise MessageError("The message has a number that JSON does not have (NaN or Infinity). Leave it out.")


def _check_nesting(text: bytes) -> None:
    opened = text.count(b"[") + text.count(b"{")
    if opened + text.count(b",") + text.count(b":") > MOST_ITEMS:
        stripped = _STRING.sub(b"", text)
        if sum(stripped.count(each) for each in (b"[", b"{", b",", b":")) > MOST_ITEMS:
            raise MessageError("The message has millions of values. Send less in one request.")
    if opened <= DEEPEST:
        return
    brackets = _STRING.sub(b"", text).translate(None, _NOT_BRACKETS)
    for _ in range(DEEPEST):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        raise MessageError(f"The message is nested deeper than {DEEPEST} levels. Send the values at fewer levels.")
