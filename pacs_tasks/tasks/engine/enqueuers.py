"""Who enqueued a job: the name whose signature this worker has verified."""

from __future__ import annotations

from contextlib import suppress
from typing import cast

from celery import Task

from pacs_tasks.errors import MessageError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.messages.signature import (
    VERIFIED,
    Signed,
    enqueuer_of_record,
    keys,
    own_signature,
    sign_record,
    verified,
)
from pacs_tasks.request import AnyRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import ledger

#: The fields of a job that have the name, and the signature of a worker that verified it.
_ENQUEUER, _SIGNATURE = "enqueuer", "enqueuer_signature"


def enqueuer_of(record: Ledger, job_id: str, request: AnyRequest) -> str:
    """The name of who enqueued a job, as a signature proves it; empty where none does.

    The name alone proves nothing: whoever may write to Redis may write it.
    """
    name, signed = cast("list[str | None]", record.client.hmget(job_key(job_id), [_ENQUEUER, _SIGNATURE]))
    if name and signed:
        with suppress(MessageError):
            verified(signed, Signed(_ENQUEUER, job_id, name), settings())
            return name
    with suppress(MessageError):
        return enqueuer_of_record(record, job_id, request, settings(), bulk=False)
    return ""


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
    proof = own_signature(settings(), Signed(_ENQUEUER, job_id, name))
    ledger().client.hset(job_key(job_id), mapping={_ENQUEUER: name, **({_SIGNATURE: proof} if proof else {})})
    sign_record(ledger(), job_id, request, settings())


def check_record(job_id: str, request: AnyRequest, *, bulk: bool) -> None:
    """Verify who recorded the request of a job, and record the name.

    Parameters
    ----------
    bulk
        The request has its large field.

    Raises
    ------
    MessageError
        If its signature is not valid, or lacks although this worker requires one.
    """
    if keys(settings()):
        name = enqueuer_of_record(ledger(), job_id, request, settings(), bulk=bulk)
        if name:
            ledger().client.hsetnx(job_key(job_id), _ENQUEUER, name)
