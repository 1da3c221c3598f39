"""Who enqueued a job: the name whose signature this worker has verified."""

from __future__ import annotations

from typing import cast

from celery import Task

from pacs_tasks.errors import MessageError
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.messages.signature import VERIFIED, enqueuer_of_record, keys, sign_record
from pacs_tasks.request import AnyRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import ledger

#: The field of a job that has the name.
_ENQUEUER = "enqueuer"


def enqueuer_of(job_id: str) -> str:
    """The verified name of who enqueued a job; empty where nobody signed it, or this worker knows no keys."""
    return cast("str | None", ledger().client.hget(job_key(job_id), _ENQUEUER)) or ""


def note_enqueuer(task: Task, request: AnyRequest, *, opened: bool) -> None:
    """Record who sent the message with a request, and sign the record: the job's later messages do not hold it.

    Raises
    ------
    MessageError
        If this message began a job before, whose record is gone.
    """
    job_id, name = task.request.id, task.request.get(VERIFIED)
    if not opened or not name:
        return
    seen = f"pacs_tasks:accepted:{job_id}"
    if not ledger().client.set(seen, 1, nx=True, ex=settings().signature_lifetime):
        raise MessageError("This signed message was sent before, and its job is gone. Enqueue the request anew.")
    ledger().client.hset(job_key(job_id), _ENQUEUER, name)
    sign_record(ledger(), job_id, request, settings())


def check_record(job_id: str, request: AnyRequest) -> None:
    """Verify who recorded the request of a job, and record the name."""
    if keys(settings()):
        name = enqueuer_of_record(ledger(), job_id, request, settings())
        if name:
            ledger().client.hsetnx(job_key(job_id), _ENQUEUER, name)
