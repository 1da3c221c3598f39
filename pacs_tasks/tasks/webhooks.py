"""Webhooks: the ends of jobs, delivered to those that the settings name, as Standard Webhooks signs them.

Each worker looks for ends whose deliveries are not planned, and for deliveries that are due; ``pacs_tasks.webhook``
posts one. It may run twice: the id of the event is the same. No request can name a URL, no redirect is followed, and no
proxy is used, so that nothing is called but the hosts in the settings.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import itertools
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit

from celery import Celery, Task

from pacs_tasks.app import app
from pacs_tasks.errors import (
    InvalidRequestError,
    JobCancelledError,
    JobNotFoundError,
    MissingKeyError,
    PacsTasksError,
    SealingError,
)
from pacs_tasks.fleet.webhooks import Delivery, Webhooks, event_id
from pacs_tasks.journal.logs import add_to_work
from pacs_tasks.ledger.ends import End
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.messages.shown import DELIVERED, GIVEN_UP, TRIED_LATER
from pacs_tasks.operations import FIND_QUEUE, PART_PRIORITIES
from pacs_tasks.outcome import Category, Outcome, Progress
from pacs_tasks.request import Priority
from pacs_tasks.schema import ID, JobEnded, JobEvent
from pacs_tasks.settings import settings
from pacs_tasks.settings.values import Webhook, key_of
from pacs_tasks.tasks.engine.base import BROKER_AWAY, go_back, ledger, register
from pacs_tasks.tasks.engine.claim import repeat

logger = logging.getLogger(__name__)

#: Seconds between two looks for ends and deliveries, and looks after which what was given up long ago is forgotten.
_INTERVAL = 1.0
_PURGED = 3600
#: Ends that are planned between two deliveries, and seconds until one that cannot be read is tried again.
_MOST_PLANNED = 100
_UNREAD = 60.0
#: Seconds after each try that failed until the next; after the last one, a delivery is given up: in all a day and more.
PAUSES = (1, 5, 30, 120, 600, 1_800, 7_200, 18_000, 36_000, 36_000)
#: Files or instances that an event names.
_MOST_PROBLEMS = 100
#: HTTP status codes: success, redirects, and "Gone", by which a service ends its subscription.
_SUCCESS, _REDIRECTS, _GONE = range(200, 300), range(300, 400), 410
_TASK = "pacs_tasks.webhook"

_random = random.SystemRandom()


def event_of(record: Ledger, progress: Progress, ended: Outcome | PacsTasksError, *, patients: bool) -> JobEvent:
    """Make the event of the end of a job.

    Raises
    ------
    MissingKeyError
        If this process cannot read the record of the job.
    """
    job_id, finished = progress.job_id, progress.finished or progress.created
    failure = ended if isinstance(ended, PacsTasksError) else None
    shown = failure if patients or failure is None else failure.public()
    data = JobEnded(
        job_id=job_id,
        task=progress.task,
        state=progress.state,
        category=_category_of(ended),
        attempt=progress.attempt,
        remote=progress.remote,
        created=progress.created,
        started=progress.started,
        finished=finished,
        summary={} if isinstance(ended, PacsTasksError) else ended.summary(),
        error=str(shown or ""),
        error_type=type(failure).__name__ if failure else "",
        request=_request_of(record, job_id) if patients else None,
        problems=getattr(ended, "problems", ())[:_MOST_PROBLEMS] if patients else (),
    )
    moment = datetime.fromtimestamp(finished, UTC).isoformat(timespec="milliseconds")
    identity = event_id(job_id, progress.attempt)
    return JobEvent(id=identity, subject=job_id, time=moment, dataschema=f"{ID}:JobEnded", data=data)


def _category_of(ended: Outcome | PacsTasksError) -> Category:
    if isinstance(ended, PacsTasksError):
        return Category.CANCELLED if isinstance(ended, JobCancelledError) else Category.FAILED
    return ended.category


def _request_of(record: Ledger, job_id: str) -> dict[str, object] | None:
    """Give the request of a job; None if it was not valid, or its record has expired."""
    try:
        return record.request(job_id).model_dump(mode="json", exclude_none=True)
    except (InvalidRequestError, JobNotFoundError):
        return None


def _end_of(record: Ledger, job_id: str, attempt: int) -> End | None:
    """Read how an attempt of a job ended; None if its record has expired."""
    live = None
    with suppress(JobNotFoundError):
        live = record.end(job_id)
    # Read last: it is kept before anything of the record changes, so that without it `live` is whole.
    kept = record.kept_end(job_id, attempt)
    return kept or (live if live and live.progress.attempt == attempt else None)


def _bodies(record: Ledger, end: End | None, webhooks: Mapping[str, Webhook]) -> dict[str, str]:
    """Make the body of the event of an end for each webhook that wants it."""
    bodies: dict[str, str] = {}
    if end is None or end.outcome is None:
        return bodies
    for name, webhook in webhooks.items():
        event = event_of(record, end.progress, end.outcome, patients=webhook.patients)
        if event.data.category in webhook.events:
            bodies[name] = event.model_dump_json(exclude_none=True)
    return bodies


def plan_deliveries(
    record: Ledger, found: Webhooks, webhooks: Mapping[str, Webhook], unread: dict[tuple[int, str], float]
) -> None:
    """Plan the deliveries of jobs that have ended.

    Parameters
    ----------
    unread
        The ends that this worker could not read, and when it tries each again, by its monotonic clock.
    """
    now, planned = time.monotonic(), 0
    seen: set[tuple[int, str]] = set()
    for end in found.ended():
        attempt, job_id = end
        seen.add(end)
        if unread.get(end, now) > now:
            continue
        try:
            bodies = _bodies(record, _end_of(record, job_id, attempt), webhooks)
        except BROKER_AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is written there must not hold up the others
            # Another worker may have its key.
            if end not in unread and not isinstance(error, MissingKeyError):
                logger.warning("the end of job %s cannot be read (%s)", job_id, type(error).__name__)
            unread[end] = now + _UNREAD
            continue
        found.plan(attempt, job_id, bodies)
        planned += 1
        if planned == _MOST_PLANNED:
            return
    for end in unread.keys() - seen:
        del unread[end]


def watch_webhooks(stopped: threading.Event) -> None:
    """Plan deliveries and enqueue those that are due until ``stopped``; nothing if there is no webhook."""
    webhooks = settings().webhooks
    if not webhooks:
        return

    rounds, unread = itertools.count(), dict[tuple[int, str], float]()

    def watch(celery: Celery = app) -> None:
        found = Webhooks(ledger().client)
        found.want()
        plan_deliveries(ledger(), found, webhooks, unread)
        for delivery_id in found.due():
            priority = PART_PRIORITIES[Priority.STAT]
            celery.send_task(_TASK, args=[delivery_id], queue=FIND_QUEUE, priority=priority)
        if next(rounds) % _PURGED == 0:
            found.purge(before=time.time() - ledger().keep)

    repeat(stopped, _INTERVAL, watch)


@register(_TASK, ignore_result=True)
def webhook(_: Task, delivery_id: str) -> str | None:
    """Post one delivery, unless it has succeeded or another worker is at it; returns what Flower shows."""
    try:
        found = Webhooks(ledger().client)
        if found.claim(delivery_id):
            try:
                delivery = found.get(delivery_id)
                if delivery is not None:
                    add_to_work(job=delivery.job_id, webhook=delivery.webhook)
                return deliver(found, delivery, settings().webhooks)
            finally:
                found.release(delivery_id, f"queued {delivery_id}")
    except BROKER_AWAY as error:
        go_back(error)
    return None


def deliver(found: Webhooks, delivery: Delivery | None, webhooks: Mapping[str, Webhook]) -> str | None:
    """Post a delivery once, and return what came of it; nothing if it has succeeded or was given up."""
    if delivery is None or delivery.given_up:
        return None
    target = webhooks.get(delivery.webhook)
    # Another worker may know the webhook, as while those of a fleet restart, or have the key.
    status, error = 0, "The settings of the worker have no webhook of this name."
    if target is not None:
        try:
            status, error = post(target, delivery.event_id, found.body(delivery).encode())
        except SealingError as sealed:
            error = sealed.message
    if status in _SUCCESS:
        found.forget(delivery.id)
        return DELIVERED
    last = status == _GONE or delivery.tries >= len(PAUSES)
    pause = None if last else PAUSES[delivery.tries] * _random.uniform(1.0, 1.25)
    found.note_failure(delivery, error, pause)
    # A URL may hold a secret of the service.
    logger.warning("webhook %s: event %s of job %s: %s", delivery.webhook, delivery.event_id, delivery.job_id, error)
    return TRIED_LATER if pause is not None else GIVEN_UP


def signature(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """Sign a delivery, as Standard Webhooks does: HMAC-SHA256 of id, Unix time and body."""
    signed = f"{identity}.{timestamp}.".encode() + body
    digest = hmac.digest(key_of(secret) or b"", signed, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def post(target: Webhook, identity: str, body: bytes) -> tuple[int, str]:
    """Post a signed body; return the status code, 0 without a response, and what went wrong."""
    parts, timestamp = urlsplit(target.url), int(time.time())
    headers = {
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "User-Agent": "pacs-tasks",
        "webhook-id": identity,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(target.secret, identity, timestamp, body),
        "Connection": "close",
    }
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host, late = parts.hostname or "", threading.Event()
    try:
        with closing(_connection(target, host, parts.port)) as connection:
            connection.connect()
            # Whoever sends a byte now and then would hold a worker for ever.
            limit = threading.Timer(target.timeout, _cut, [connection.sock, late])
            limit.start()
            try:
                connection.request("POST", path, body, headers)
                status = connection.getresponse().status
            finally:
                limit.cancel()
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            return 0, f"No response within {target.timeout:g} s."
        reason = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or type(error).__name__
        return 0, f"No response ({reason})."
    if status in _REDIRECTS:
        return status, f"HTTP status {status}: redirects are not followed. Correct the URL in the settings."
    return status, "" if status in _SUCCESS else f"HTTP status {status}."


def _connection(target: Webhook, host: str, port: int | None) -> http.client.HTTPConnection:
    if target.url.startswith("https:"):
        context = ssl.create_default_context(cafile=target.ca_file)
        return http.client.HTTPSConnection(host, port, timeout=target.timeout, context=context)
    return http.client.HTTPConnection(host, port, timeout=target.timeout)


def _cut(connection: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
