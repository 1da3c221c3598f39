"""The base of every task: its class and registration, the worker's connections to Redis, the limits of a request."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from celery import Task
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from celery.worker.request import Request as CeleryRequest

from pacs_tasks.ae import LocalAE
from pacs_tasks.app import DEFAULT_REDIS_URL, LONGEST_TASK, app
from pacs_tasks.connection import connect
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import JobFailedError, JobNotReadyError, PacsTasksError
from pacs_tasks.fleet.remotes import AssociationLeases, Outages
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.operations import HIDDEN
from pacs_tasks.request import Request
from pacs_tasks.settings import settings

logger = logging.getLogger(__name__)

#: How often a worker repeats a command that Redis does not answer: about a minute in all.
_REDIS_TRIES = 30


class PrivateRequest(CeleryRequest):  # type: ignore[misc]  # Celery ships no annotations
    """A task message whose arguments no event, log line or `inspect` shows, whoever published it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr = self._kwargsrepr = HIDDEN
        self._request_dict["argsrepr"] = self._request_dict["kwargsrepr"] = HIDDEN

    def info(self, *_: Any, **__: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", super().info(safe=True))


class JobTask(Task):  # type: ignore[misc]  # Celery ships no annotations
    """Base of the public tasks: one argument, ``request``, as a JSON object.

    :class:`~pacs_tasks.client.PacsClient` leaves it out: it has recorded the request in the ledger.
    """

    abstract = True
    Request = "pacs_tasks.tasks.engine.base:PrivateRequest"
    #: Celery logs these as one line without a traceback.
    throws = (PacsTasksError,)

    def apply_async(self, *args: Any, **options: Any) -> Any:
        return super().apply_async(*args, **({"argsrepr": HIDDEN, "kwargsrepr": HIDDEN} | options))


def register(name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as the task of this name; ``options`` as for :meth:`celery.Celery.task`."""
    return cast("Callable[[Callable[..., Any]], Any]", app.task(bind=True, name=name, **options))


@cache
def ledger() -> Ledger:
    """The ledger in this worker's Redis."""
    config = settings()
    url = config.redis_url or DEFAULT_REDIS_URL
    return Ledger(connect(url, max(config.redis_timeout, 5.0), _REDIS_TRIES), config.keep_jobs)


@cache
def budget() -> AssociationLeases:
    """The association budget in this worker's Redis."""
    return AssociationLeases(ledger().client)


@cache
def outages() -> Outages:
    """The outages in this worker's Redis."""
    return Outages(ledger().client)


def local_ae(request: Request) -> LocalAE:
    return request.local or settings().local


def timeouts(request: Request) -> Timeouts:
    config = settings()
    return Timeouts.of(request.timeout or config.timeout, config.operation_timeout, config.progress_timeout)


def result_of(job_id: str) -> dict[str, Any]:
    """Celery's result of a job that has ended: its summary.

    A job that has been reopened since has no result yet: the task of its next attempt gives it.

    Raises
    ------
    PacsTasksError
        If the job ended with an error: that error, without private data.
    """
    try:
        return ledger().outcome(job_id).summary()
    except JobNotReadyError:
        raise Ignore from None
    except PacsTasksError as error:
        raise error.public() from None


def unexpected(error: Exception) -> JobFailedError:
    """Log where an unexpected error happened and give the error to record.

    The log omits the text of the error, which may contain a path or a patient's name.
    """
    if isinstance(error, SoftTimeLimitExceeded):
        return JobFailedError(
            f"The task ran for more than {LONGEST_TASK // 3600} h and was stopped. "
            "Check the disks and file servers of the worker, then retry the job."
        )
    frames = traceback.extract_tb(error.__traceback__)
    where = "".join(traceback.format_list(frames))
    logger.error("unexpected %s\n%s", type(error).__name__, where.rstrip())
    last = frames[-1]
    return JobFailedError(
        f"An unexpected {type(error).__name__} occurred in {last.name}, line {last.lineno}: a defect of pacs-tasks. "
        "Report it with the lines of the worker's log."
    )
