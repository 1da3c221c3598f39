"""The events that webhooks bring: CloudEvents 1.0 in structured JSON."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

from typing import Any, Literal

from pydantic import Field

from pacs_tasks.ae import Value
from pacs_tasks.outcome.instance import Category, InstanceOutcome
from pacs_tasks.outcome.transfer import JobState


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
