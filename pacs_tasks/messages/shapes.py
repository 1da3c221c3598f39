"""The shapes of messages: the fields that Celery and kombu read of a task, a command of remote control and an event.

What Celery would not understand, or what would replace a part of it, is not valid. Other fields are left alone.
"""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from celery.utils.time import maybe_iso8601
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pacs_tasks.ledger.keys import PARTS

#: How a body may be compressed, by kombu's names.
Compression = Literal[
    "gzip", "zlib", "application/x-gzip", "bzip2", "bzip", "application/x-bz2", "lzma", "xz", "application/x-lzma"
]
_LONGEST_ID: Final = 255


def _check_id(text: str) -> str:
    if not text.isprintable() or text.rpartition(":")[2] in PARTS:
        raise ValueError("no task has this id")
    return text


def _check_moment(text: str) -> str:
    found = maybe_iso8601(text)
    if not isinstance(found, datetime) or not 1970 <= found.year < 9000:
        raise ValueError("not a time")
    return text


class Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


_Text = Annotated[str, StringConstraints(max_length=1_000)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_ID)]
_Id = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_ID), AfterValidator(_check_id)] | UUID
_Moment = Annotated[str, StringConstraints(max_length=64), AfterValidator(_check_moment)]
_Priority = Annotated[int, Field(gt=-(2**31), lt=2**31)]
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Seconds = Annotated[float, Field(ge=0, lt=10**9, allow_inf_nan=False)]
_Time = Annotated[float, Field(ge=0, lt=10**11, allow_inf_nan=False)]
_Few = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
_Clock = Annotated[int, Field(ge=0, lt=2**63)]


class _Address(Shape):
    exchange: _Text
    routing_key: _Text


class _Properties(Shape):
    delivery_tag: _Name
    delivery_info: _Address
    body_encoding: Literal["base64", "utf-8"] | None = None
    priority: _Priority | None = None
    correlation_id: _Text | UUID | None = None
    reply_to: _Text | None = None


class EnvelopeShape(Shape):
    """What kombu reads of any message."""

    properties: _Properties
    headers: dict[str, Any]
    body: str
    content_type: Annotated[Literal["application/json"], Field(alias="content-type")]
    content_encoding: Annotated[Literal["utf-8", "UTF-8"] | None, Field(alias="content-encoding")] = None


class TaskFields(Shape):
    """What Celery reads of a task: the headers of protocol 2, the body of protocol 1."""

    id: _Id
    task: _Name
    root_id: _Id | None = None
    parent_id: _Id | None = None
    group: _Text | UUID | None = None
    taskset: _Text | None = None
    group_index: int | None = None
    lang: _Text | None = None
    meth: _Text | None = None
    shadow: _Text | None = None
    origin: _Text | None = None
    eta: _Moment | None = None
    expires: _Moment | None = None
    retries: _Count | None = None
    timelimit: Annotated[list[_Seconds | None], Field(min_length=2, max_length=2)] | None = None
    replaced_task_nesting: _Count | None = None
    ignore_result: bool | None = None
    redelivered: bool | None = None
    utc: bool | None = None
    stamped_headers: list[_Text] | None = None
    stamps: dict[str, Any] | None = None


class _Options(Shape):
    """How a task that follows is published. With a wrong one, a task that was done would fail.

    Whatever else stands there, such as stamps, goes into the message. What would replace a part of Celery is refused.
    """

    task_id: _Id | None = None
    root_id: _Id | None = None
    parent_id: _Id | None = None
    reply_to: _Text | None = None
    group_id: _Text | UUID | None = None
    group_index: _Count | None = None
    queue: _Text | None = None
    routing_key: _Text | None = None
    exchange: _Text | None = None
    exchange_type: Literal["direct"] | None = None
    priority: _Priority | None = None
    serializer: Literal["json"] | None = None
    compression: Compression | None = None
    countdown: _Seconds | None = None
    eta: _Moment | datetime | None = None
    expires: _Moment | datetime | _Seconds | None = None
    retries: _Count | None = None
    time_limit: _Seconds | None = None
    soft_time_limit: _Seconds | None = None
    headers: dict[str, Any] | None = None
    shadow: _Text | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    ignore_result: bool | None = None
    delivery_mode: Literal[1, 2, "transient", "persistent"] | None = None
    retry: bool | None = None
    stamped_headers: list[_Text] | None = None
    link: "list[_Signature | str] | _Signature | str | None" = None
    link_error: "list[_Signature | str] | _Signature | str | None" = None
    chord: "_Signature | None" = None
    chain: "list[_Signature] | None" = None
    retry_policy: (
        dict[Literal["max_retries", "interval_start", "interval_step", "interval_max"], _Few | None] | None
    ) = None
    connection: None = None
    producer: None = None
    publisher: None = None
    router: None = None
    declare: None = None
    add_to_parent: bool | None = None


class _Signature(Shape):
    """A task that follows, as Celery writes it."""

    task: _Name
    args: list[Any]
    named: Annotated[dict[str, Any], Field(alias="kwargs")]
    options: _Options
    subtask_type: Literal["chain", "group", "chord", "xmap", "xstarmap", "chunks"] | None = None
    immutable: bool | None = None

    @model_validator(mode="after")
    def _check_canvas(self) -> Self:
        """A canvas has its tasks among its named arguments."""
        named = self.named
        tasks: list[Any] = []
        if self.subtask_type in {"chain", "group"}:
            tasks = _listed(named.get("tasks", []))
        elif self.subtask_type == "chord":
            named = named.get("kwargs", named)
            header = named.get("header", [])
            tasks = [*(header if isinstance(header, list) else [header]), *filter(None, [named.get("body")])]
        for each in tasks:
            _Signature.model_validate(each)
        return self


def _listed(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("not a list")  # noqa: TRY004 - pydantic wants this
    return value


class Following(Shape):
    """What follows a task."""

    callbacks: list[_Signature | str] | None = None
    errbacks: list[_Signature | str] | None = None
    chain: list[_Signature] | None = None
    chord: _Signature | None = None


class Command(Shape):
    """A command of Celery's remote control. Regular expressions may take for ever, so the names are compared."""

    method: _Name
    arguments: dict[str, Any] | None = None
    destination: list[_Text] | None = None
    pattern: None = None
    matcher: None = None
    reply_to: _Address | None = None
    ticket: _Text | None = None


class ControlHeaders(Shape):
    clock: _Clock | None = None
    expires: _Time | None = None
    ticket: _Text | None = None
    hostname: _Text | None = None
    compression: None = None


class Event(Shape):
    """An event of a worker or a task, as Flower keeps it."""

    type: _Name
    hostname: _Name
    timestamp: _Time
    clock: _Clock | None = None
    pid: _Count | None = None
    utcoffset: Annotated[float, Field(gt=-100, lt=100)] | None = None
    freq: Annotated[float, Field(gt=0, lt=10**9)] | None = None
    active: _Count | None = None
    processed: _Clock | None = None
    loadavg: list[float] | None = None
    uuid: _Id | None = None
    name: _Text | None = None
    root_id: _Id | None = None
    parent_id: _Id | None = None
    retries: _Count | None = None
    eta: _Text | None = None
    expires: _Text | None = None
    runtime: float | None = None
    queue: _Text | None = None
    routing_key: _Text | None = None
    exchange: _Text | None = None
