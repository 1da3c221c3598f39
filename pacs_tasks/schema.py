"""The contract with other programs: JSON Schema of requests, outcomes, progress and events, with a version."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from pacs_tasks.ae import Value
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import Category, InstanceOutcome, JobState, Progress

#: The second number grows when something is added that a reader may ignore, the first with any other change.
VERSION = "1.0"
#: The name of the whole contract, and of a schema in it after ``#/$defs/``.
ID = f"urn:pacs-tasks:schema:{VERSION}"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFINITIONS = "$defs"


class JobEnded(Value):
    """The data of an event: how a job ended. Times are in Unix seconds.

    ``summary`` is what Celery's result of the job holds: counts, no path and no match. ``error`` is the message of a
    job without an outcome, ``error_type`` its class. A subscription without ``patients`` has neither ``request`` nor
    ``problems``, and its ``error`` holds no private value.
    """

    job_id: str
    task: str
    state: JobState
    category: Category
    attempt: int
    #: The remote, for people.
    remote: str
    created: float
    started: float | None = None
    finished: float
    summary: dict[str, Any] = Field(default_factory=dict)
    error: str = ""
    error_type: str = ""
    #: The request, without a large field such as the rows of a batch.
    request: dict[str, Any] | None = None
    #: The first hundred files or instances that did not simply succeed.
    problems: tuple[InstanceOutcome, ...] = ()


class JobEvent(Value):
    """An event of CloudEvents 1.0.

    ``id`` is the same whenever the same end of a job is delivered. ``subject`` is the id of the job, ``time`` its end
    as RFC 3339 writes it.
    """

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: Literal["pacs-tasks"] = "pacs-tasks"
    type: Literal["pacs_tasks.job.ended"] = "pacs_tasks.job.ended"
    subject: str
    time: str
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str
    data: JobEnded


@cache
def document() -> dict[str, Any]:
    """Give all schemas, and which of them belong to a task."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(row.request, "validation") for row in OPERATIONS.values()]
    replies = dict.fromkeys([*(row.outcome for row in OPERATIONS.values()), InstanceOutcome, Progress, JobEvent])
    models += [(each, "serialization") for each in replies]
    tasks = {
        task: {"queue": row.queue, "request": _reference(row.request), "outcome": _reference(row.outcome)}
        for task, row in OPERATIONS.items()
    }
    _, found = models_json_schema(models, ref_template="#/$defs/{model}")
    head = {"$schema": _DIALECT, "$id": ID, "title": "pacs-tasks", "version": VERSION, "tasks": tasks}
    return {**head, _DEFINITIONS: dict(sorted(found[_DEFINITIONS].items()))}


def schema_of(name: str) -> dict[str, Any] | None:
    """Give the schema with this name, or that of the request of this task, by itself; None if there is none."""
    whole = document()
    if name in OPERATIONS:
        name = OPERATIONS[name].request.__name__
    if name not in whole[_DEFINITIONS]:
        return None
    needed, seen = [name], set[str]()
    while needed:
        each = needed.pop()
        if each not in seen:
            seen.add(each)
            needed += _references(whole[_DEFINITIONS][each])
    parts = {each: whole[_DEFINITIONS][each] for each in sorted(seen)}
    return {"$schema": _DIALECT, "$id": f"{ID}:{name}", "$ref": f"#/$defs/{name}", _DEFINITIONS: parts}


def names() -> list[str]:
    """Give the names of all schemas."""
    return list(document()[_DEFINITIONS])


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/$defs/{model.__name__}"}


def _references(part: Any) -> Iterator[str]:
    """Give the names of the schemas that a part of a schema refers to."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"].rpartition("/")[2]
        for each in part.values():
            yield from _references(each)
    elif isinstance(part, list):
        for each in part:
            yield from _references(each)
