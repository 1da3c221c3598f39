"""What every task does around its work: take the request up, claim the job, record the outcome or the error."""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, cast

from celery import Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.worker.request import Request as CeleryRequest

from pacs_tasks.ae import LocalAE
from pacs_tasks.app import DEFAULT_REDIS_URL, HIDDEN, LONGEST_TASK
from pacs_tasks.connection import connect
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import JobFailedError, JobNotReadyError, PacsTasksError, PeerBusyError
from pacs_tasks.fleet.associations import Budget, name_of
from pacs_tasks.fleet.outages import Outages
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.outcome import EchoOutcome, FindOutcome, MoveOutcome, PreflightOutcome
from pacs_tasks.outcome.progress import Progress
from pacs_tasks.outcome.verification import CommitOutcome, VerifyOutcome
from pacs_tasks.request import R, Request, TransferRequest, build
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.claim import Claim, claimed
from pacs_tasks.tasks.engine.retry import BROKER_AWAY, come_again, go_back

logger = logging.getLogger(__name__)

#: How often a worker sends an unanswered command to its Redis again: about a minute in all.
_PATIENCE = 30
#: Seconds between two tries at most.
_LONGEST_PAUSE = 30.0
#: Seconds for which a peer may refuse every association "for now" until who waits for a single answer is told so.
_LONGEST_REFUSAL = 600.0

SingleOutcome = EchoOutcome | FindOutcome | MoveOutcome | PreflightOutcome | VerifyOutcome | CommitOutcome


class PrivateRequest(CeleryRequest):  # type: ignore[misc]  # Celery ships no annotations
    """A task message whose arguments no event, log line or `inspect` shows, whoever published it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr = self._kwargsrepr = HIDDEN
        self._request_dict["argsrepr"] = self._request_dict["kwargsrepr"] = HIDDEN

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        return cast("dict[str, Any]", super().info(safe=True))


class JobTask(Task):  # type: ignore[misc]  # Celery ships no annotations
    """Base of the public tasks: one argument, ``request``, as a JSON object.

    It is left out by :class:`~pacs_tasks.client.PacsClient`, which has put the request into the ledger.
    """

    abstract = True
    Request = "pacs_tasks.tasks.engine.base:PrivateRequest"
    #: Expected: logged as one line without a traceback.
    throws = (PacsTasksError,)

    def apply_async(self, *args: Any, **options: Any) -> Any:
        return super().apply_async(*args, **({"argsrepr": HIDDEN, "kwargsrepr": HIDDEN} | options))


@cache
def ledger() -> Ledger:
    """The ledger of this worker's Redis."""
    config = settings()
    url = config.redis_url or DEFAULT_REDIS_URL
    return Ledger(connect(url, max(config.redis_timeout, 5.0), _PATIENCE), config.keep_jobs)


@cache
def budget() -> Budget:
    """The association budget in this worker's Redis."""
    return Budget(ledger().client)


@cache
def outages() -> Outages:
    """The outages in this worker's Redis."""
    return Outages(ledger().client)


def local_ae(request: Request) -> LocalAE:
    return request.local or settings().local


def timeouts(request: Request) -> Timeouts:
    config = settings()
    return Timeouts.of(request.timeout or config.timeout, config.operation_timeout, config.progress_timeout)


def accept(task: Task, payload: Mapping[str, Any] | None, request_type: type[R]) -> R | None:
    """Take a job up: its request, or nothing if it has ended before (handed out twice, or cancelled).

    Raises
    ------
    InvalidRequestError
        If the request is not valid; nothing was opened.
    """
    job_id = task.request.id
    if payload is not None:
        try:
            request = ledger().completed(build(request_type, payload))
        except PacsTasksError:
            ledger().open(job_id, task.name, None)
            raise
        ledger().open(job_id, task.name, cast(Any, request))
    else:
        request = cast(R, ledger().request(job_id, bulk=True))
    return None if ledger().start(job_id, task.request.hostname).finished else request


@contextmanager
def errors_recorded(task: Task) -> Iterator[None]:
    """Record in the ledger why a job has no outcome, and tell Celery without what is private.

    A job whose peer, or the budget, has no association for it now goes back on the queue: that is no try.
    A plain Celery caller gets the same class of error from ``AsyncResult.get()``.
    """
    attempt = 0
    try:
        try:
            yield
        except PeerBusyError as error:
            ended = given_up(task.request.id, error)
            if ended is None:
                come_again(task, _pause_of_job(task), exc=error.public())
            attempt = ended.attempt
            raise ended.error from None
    except (Ignore, Retry, Reject):
        raise
    except RecordedError as recorded:
        raise recorded.error.public() from None
    except BROKER_AWAY as error:
        go_back(error)
    except PacsTasksError as error:
        ledger().failed(task.request.id, error, attempt)
        raise error.public() from None
    except Exception as error:  # noqa: BLE001 - a defect of ours must end the job, not leave it running for ever
        failure = unexpected(error)
        ledger().failed(task.request.id, failure)
        raise failure from None


def unexpected(error: Exception) -> JobFailedError:
    """Log a defect of ours: where it happened, not what it says, which may hold a path or a patient's name.

    A task that ran for too long is none.
    """
    if isinstance(error, SoftTimeLimitExceeded):
        return JobFailedError(
            f"it took longer than {LONGEST_TASK // 3600} h, which something hangs for; look at the worker's disks and "
            "file servers, then retry the job"
        )
    frames = traceback.extract_tb(error.__traceback__)
    where = "".join(traceback.format_list(frames))
    logger.error("unexpected %s\n%s", type(error).__name__, where.rstrip())
    last = frames[-1]
    return JobFailedError(
        f"unexpected {type(error).__name__} in {last.name}, line {last.lineno}; this is a defect of pacs-tasks: "
        "please report it with the lines of the worker's log"
    )


class RecordedError(Exception):
    """A job has ended before, with ``error``: there is nothing to record, and no peer that is busy now."""

    def __init__(self, error: PacsTasksError) -> None:
        super().__init__(error.message)
        self.error = error


def conclude(job_id: str) -> dict[str, Any]:
    """Celery's result of a planner whose job has ended: see :func:`result_of`.

    Raises
    ------
    RecordedError
        If it ended with an error.
    """
    try:
        return result_of(job_id)
    except PacsTasksError as error:
        raise RecordedError(error) from None


def result_of(job_id: str) -> dict[str, Any]:
    """Celery's result of a job that has ended: its summary, or its error.

    A job that was found ended may have been reopened since: then its result is for the task of its next attempt to
    give, and this one says nothing.
    """
    try:
        return ledger().outcome(job_id).summary()
    except JobNotReadyError:
        raise Ignore from None
    except PacsTasksError as error:
        raise error.public() from None


def pause(retries: int) -> float:
    """Seconds before the next try: about 1, 2, 4 and so on, each time others, so that not all come back at once."""
    return _about(min(2.0 ** min(retries, 10), _LONGEST_PAUSE))


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class GivenUp(NamedTuple):
    """The error that ends a job, and which attempt of it."""

    error: PeerBusyError
    attempt: int


def given_up(job_id: str, error: PeerBusyError) -> GivenUp | None:
    """What ends a job whose peer has refused every association "for now" for too long; none if it waits on.

    The time counts since the job began, and starts anew with each association that the peer accepts from the fleet.
    """
    request, limit = ledger().request(job_id), _LONGEST_REFUSAL
    if isinstance(request, TransferRequest):
        limit = settings().give_up_after if request.give_up_after is None else request.give_up_after
    progress = ledger().progress(job_id)
    seconds = _refused_for(job_id, progress)
    if seconds <= limit:
        return None
    told = PeerBusyError(
        f"{error.message}. It has done so for {seconds:.0f} s, so the job gave up waiting; what it had done is kept: "
        f"`pacs-tasks resume {job_id}` goes on with the rest"
    )
    return GivenUp(told, progress.attempt)


def pause_of_part(task: Task, job_id: str) -> float:
    """Note that a part found no association: the peer, or the budget, has none now. Seconds until it comes again.

    They grow with the times that it has come back, with the time for which the peer refuses, and with the number of
    parts that wait for it.
    """
    ledger().unfinished.waits(job_id)
    refused = _refused_for(job_id, ledger().progress(job_id))
    soonest = _about(min(max(1.0, min(task.request.retries / 4, 5.0), refused / 2), _LONGEST_PAUSE))
    return budget().come_back(_peer(job_id), task.request.id, soonest, one_of_many=True)


def _pause_of_job(task: Task) -> float:
    """As :func:`pause_of_part`, for a job with one answer, or its planner: the crowd does not hold it up."""
    job_id = task.request.id
    ledger().unfinished.waits(job_id)
    return budget().come_back(_peer(job_id), job_id, pause(task.request.retries))


def _refused_for(job_id: str, progress: Progress) -> float:
    """Seconds for which the peer has refused this attempt of the job; a part of an earlier one may come before it."""
    return 0.0 if progress.started is None else budget().refused_for(_peer(job_id), progress.started)


def _peer(job_id: str) -> str:
    return name_of(ledger().request(job_id).remote)


def answer(
    task: Task,
    payload: Mapping[str, Any] | None,
    request_type: type[R],
    work: Callable[[R, Claim], SingleOutcome],
) -> dict[str, Any]:
    """Serve a job that has one answer."""
    with errors_recorded(task):
        request = accept(task, payload, request_type)
        if request is None:
            return conclude(task.request.id)
        with claimed(task, ledger(), task.request.id, "job") as claim:
            claim.check_deaths()
            outcome = work(request, claim)
            ledger().done(task.request.id, outcome)
    return outcome.summary()
