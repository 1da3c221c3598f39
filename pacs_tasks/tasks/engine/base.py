"""The base of every task: its registration, the worker's connections to Redis, and what it does if it cannot go on.

- The broker is away or full: :func:`go_back`.
- The remote or the association budget has no association now: the task comes again (:func:`come_again`), which does
  not count as a try, until the job's patience ends (:func:`give_up`).
- The remote is down: the job is parked, and its parts end without outcomes for what they have not begun. The probe in
  :mod:`.claim` enqueues the planner again when the remote is back.
- The pace of the remote allows no work: the task comes again, or the job is parked until the hours of the remote.
- The worker shuts down: a part ends after the file in progress, and the rest goes back to the queue. A warm shutdown
  of Celery would wait for the whole part, which may take minutes.
"""

from __future__ import annotations

import logging
import mmap
import random
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any, NoReturn, TypeVar, cast

import redis
from celery import Task
from celery.exceptions import BackendError, Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.states import FAILURE, SUCCESS
from kombu.exceptions import OperationalError

from pacs_tasks import spool
from pacs_tasks.ae import LocalAE
from pacs_tasks.app import DEFAULT_REDIS_URL, LONGEST_TASK, app
from pacs_tasks.connection import AWAY, connect
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import (
    BrokerUnavailableError,
    JobFailedError,
    JobNotReadyError,
    JobOutcomeError,
    MissingKeyError,
    NoLeaseError,
    PacsTasksError,
    PeerBusyError,
    PeerUnreachableError,
    SealingError,
)
from pacs_tasks.fleet.leases import AssociationLeases, name_of
from pacs_tasks.fleet.outages import Outages
from pacs_tasks.journal import tracing
from pacs_tasks.journal.logs import work_of, work_on
from pacs_tasks.ledger.claims import read_waiting
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.messages.shown import shown_arguments
from pacs_tasks.operations import HIDDEN
from pacs_tasks.outcome import Category, Outcome, Progress
from pacs_tasks.request import EchoRequest, Request, TransferRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine import background

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How often a worker repeats a command that Redis does not answer: about a minute in all.
_REDIS_TRIES = 30
#: Redis timeout in seconds for commands whose failure does no harm.
_QUICK = 2.0
#: Seconds until the ticket of a body in the background comes.
_TICKET = 1.0
#: The same once the work is done; with a time a message counts as a ticket.
_AT_ONCE = 0.01
#: Outcomes that every request allows.
_GOOD = (Category.SUCCESS, Category.WARNING)


class WaitingTask(Task):  # type: ignore[misc]  # Celery ships no annotations
    """Base of all tasks: their bodies go on in the background while they wait for a remote; see :mod:`.background`."""

    abstract = True
    #: Bodies in the background that a process has at most, as a part of the setting.
    share = 0.75

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        # The public tasks have the id of their job; the arguments of the others begin with it.
        job_id = args[0] if args and isinstance(args[0], str) else request.id
        # Celery logs the end of the task in this thread, which therefore keeps it until the next task.
        work_on(work := work_of(job_id, args))
        if request.called_directly or request.is_eager:
            return self.run(*args, **kwargs)
        if settings().associations_per_process == 1:
            return self._run_traced(args, kwargs)
        if self._is_full() and background.in_background(job_id):
            # It would wait as well, and hold the process.
            come_back(self, _about(2 * _TICKET))
        try:
            return background.run(
                partial(self._run_in_thread, request, work, args, kwargs),
                job_id,
                self._may_detach,
                partial(come_back, self, _TICKET),
            )
        except Ignore:
            # Celery copies each frame of its traceback, which would be a fifth of the work for a part.
            ignored = Ignore()
        raise ignored

    def _run_in_thread(self, request: Any, work: dict[str, str], args: Any, kwargs: Any) -> Any:
        with background.running(self, request, work):
            try:
                value = self._run_traced(args, kwargs)
            finally:
                if detached := background.current().detached:
                    self.end_in_background()
            if detached:
                publish_ticket(self, _AT_ONCE)
            return value

    def _run_traced(self, args: Any, kwargs: Any) -> Any:
        collector = settings().traces
        if collector is None:
            return self.run(*args, **kwargs)
        shown, _ = shown_arguments(self.name, self.request.id, args)
        with tracing.span(collector, self.name, self.request.get(tracing.HEADER), task=shown):
            return self.run(*args, **kwargs)

    def _is_full(self) -> bool:
        return background.in_background() >= self.share * settings().associations_per_process - 1

    def _may_detach(self, remote: str) -> bool:
        priority = (self.request.delivery_info or {}).get("priority") or 0
        return not self._is_full() and others_wait(priority, remote)

    def end_in_background(self) -> None:
        """Called at the end of a body whose task has ended before it."""


class EndingTask(WaitingTask):
    """Base of the tasks whose result in Celery is that of the job, and which what follows the job waits for."""

    abstract = True
    #: Celery logs these as one line without a traceback.
    throws = (PacsTasksError,)
    #: Parts cannot take all places.
    share = 1.0

    def end_in_background(self) -> None:
        """Store the result: who waits for it need not wait for the ticket."""
        with suppress(Ignore, PacsTasksError, *BROKER_AWAY):
            store_end(self, self.request.id)

    def after_return(self, _status: str, _value: Any, task_id: str, *_: Any) -> None:
        ledger().callers.forget(task_id)


class JobTask(EndingTask):
    """Base of the public tasks: one argument, ``request``, as a JSON object.

    :class:`~pacs_tasks.client.PacsClient` leaves it out: it has recorded the request in the ledger.
    """

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> Any:
        return super().apply_async(*args, **({"argsrepr": HIDDEN, "kwargsrepr": HIDDEN} | options))


def register(name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as the task of this name; ``options`` as for :meth:`celery.Celery.task`."""
    options.setdefault("base", WaitingTask)
    return cast("Callable[[Callable[..., Any]], Any]", app.task(bind=True, name=name, **options))


@cache
def ledger() -> Ledger:
    """The ledger in this worker's Redis."""
    config = settings()
    url = config.redis_url or DEFAULT_REDIS_URL
    return Ledger(connect(url, max(config.redis_timeout, 5.0), _REDIS_TRIES), config.keep_jobs)


@cache
def quick_redis() -> redis.Redis:
    """A connection to this worker's Redis for commands whose failure does no harm: it sends each once."""
    return connect(settings().redis_url or DEFAULT_REDIS_URL, _QUICK)


def quickly(step: Callable[[], T], failure: str = "a command about a lease failed") -> T | None:
    """Run a command whose failure does no harm; None if Redis does not answer, which is logged as ``failure``."""
    try:
        return step()
    except (BrokerUnavailableError, redis.RedisError) as error:
        logger.debug("%s (%s)", failure, type(error).__name__)
        return None


def others_wait(priority: int, remote: str) -> bool:
    """Whether messages wait that could be worked on in the place of one of a priority that waits for a remote.

    If no other job runs, they are parts of the same job. These could not while all associations with the remote are in
    use: they would only come and go.
    """
    try:
        found = read_waiting(quick_redis(), app.amqp.queues.consume_from, priority)
        if found.ahead or not found.any or not remote or background.has_idle(remote):
            return found.any
        return AssociationLeases(quick_redis()).room(remote) > 0
    except (BrokerUnavailableError, redis.RedisError):
        return False


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


def end_of(job_id: str) -> dict[str, Any] | PacsTasksError:
    """Celery's result of a job that has ended: its summary, or an error without private data.

    The error is the one with which the job ended, or :class:`JobOutcomeError` if the outcome is worse than the request
    allows. A job that has been reopened since has no result yet: the task of its next attempt gives it.
    """
    try:
        return summary_of(job_id, ledger().outcome(job_id))
    except JobNotReadyError:
        raise Ignore from None
    except MissingKeyError:
        raise
    except PacsTasksError as error:
        return error.public()


def store_end(task: Task, job_id: str) -> dict[str, Any] | PacsTasksError:
    """Make the summary of a job's last attempt its result in Celery, or the error with which it ended.

    Celery keeps the first success of an id for good, and the end of an earlier attempt may come late: when the job was
    retried at once.
    """
    end = end_of(job_id)
    stored = task.backend.get_task_meta(job_id, cache=False)
    if stored["status"] == SUCCESS and stored["result"] != end:
        task.backend.forget(job_id)
    if isinstance(end, dict) and end.get("category") in _GOOD:
        spool.remove(settings(), job_id)
    task.backend.store_result(job_id, end, FAILURE if isinstance(end, PacsTasksError) else SUCCESS)
    return end


def summary_of(job_id: str, outcome: Outcome) -> dict[str, Any]:
    """The summary of an outcome, or :class:`JobOutcomeError` if the request does not allow its category."""
    if outcome.category not in _GOOD:
        least = ledger().request(job_id).raise_unless
        if least == "success" or (least == "partial" and outcome.category is not Category.PARTIAL):
            raise JobOutcomeError(
                f"Job {job_id} ended as {outcome.category}, and its request demands {least}. "
                f"Run `pacs-tasks status {job_id}` to see the reasons, then `pacs-tasks retry {job_id}`."
            )
    return outcome.summary()


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


#: What pacs-tasks, Celery and kombu raise when Redis is away or full.
BROKER_AWAY = (BrokerUnavailableError, OperationalError, BackendError, *AWAY)

#: Longest pause between two tries, in seconds.
LONGEST_PAUSE = 30.0
#: Seconds for which a remote may refuse every association "for now" before a job with a single answer fails.
_LONGEST_REFUSAL = 600.0

#: Seconds until a task first returns, perhaps to a worker that has the key of its job, and later at most; and seconds
#: for which one line in the log of a worker stands for a job.
_HELD, _LONGEST_HELD = 5.0, 60.0
_HELD_LOGGED = 86_400

_random = random.SystemRandom()
#: One byte that the children of a prefork pool share with their parent: only the parent receives the signal.
_shutdown = mmap.mmap(-1, 1)


class PartParkedError(Exception):
    """The job waits for its remote now."""


class PartPausedError(Exception):
    """The pace of the remote allows no work now; the part comes again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class PartSuspendedError(Exception):
    """The rest of the part goes back to the queue: the worker shuts down, or others have their turn."""


def come_again(task: Task, countdown: float, **options: Any) -> NoReturn:
    """End the running task and run it again in ``countdown`` seconds.

    If the broker does not accept that, the message goes back as it was. Celery's own ``retry`` would drop it, and the
    part would wait until the job has stood still for a minute. The ticket of a body in the background comes anyway.
    """
    raise _published_again(task, countdown, **options)


def come_back(task: Task, countdown: float) -> NoReturn:
    """As :func:`come_again`, but only to see whether the work is done that is under way elsewhere.

    That counts as no return, and Celery takes the task for one that still runs.
    """
    task.request.retries -= 1
    _published_again(task, countdown)
    raise Ignore


def _published_again(task: Task, countdown: float, **options: Any) -> Retry:
    if not background.current().keep():
        raise Ignore
    try:
        return cast(Retry, task.retry(countdown=countdown, max_retries=None, throw=False, **options))
    except Reject as error:
        raise Reject(error.reason, requeue=True) from None


def publish_ticket(task: Task, countdown: float) -> None:
    """Publish the ticket of a body in the background once more, where the one under way may come seconds later.

    It does once it has come too early. Later it finds the work done, or done by others, and ends. The first one is soon
    there: another message of each short part would hold up those that are left.
    """
    if background.current().detached_for() < _TICKET:
        return
    with suppress(*BROKER_AWAY):
        retries = max(task.request.retries, 0)
        task.signature_from_request(task.request, countdown=countdown, retries=retries).apply_async()


def go_back(error: Exception) -> NoReturn:
    """Return the message to the broker: without Redis a task can record nothing."""
    raise Reject(error.message if isinstance(error, BrokerUnavailableError) else type(error).__name__, requeue=True)


def hold(task: Task, job_id: str, error: SealingError) -> NoReturn:
    """Leave a task to a worker that has the key of its job; this one neither works on the job nor ends it."""
    if ledger().client.set(f"pacs_tasks:held:{task.request.hostname}:{job_id}", 1, nx=True, ex=_HELD_LOGGED):
        logger.error("job %s is left to other workers: %s", job_id, error.message)
    ledger().note_busy(job_id, error.message)
    come_again(task, pause_without_key(task.request.retries), exc=error.public())


def pause(retries: int) -> float:
    """Seconds before the next try: about 1, 2, 4 and so on, at random, so that tasks do not all come back at once."""
    return _about(min(2.0 ** min(retries, 10), LONGEST_PAUSE))


def pause_without_key(retries: int) -> float:
    """Seconds before the next try of a task whose key this worker lacks: while keys change, the next may have it."""
    return _about(min(max(_HELD, retries), _LONGEST_HELD))


def _about(seconds: float) -> float:
    return seconds * _random.uniform(0.5, 1.0)


def give_up(job_id: str, error: PeerBusyError) -> PeerBusyError | None:
    """Fail a job whose remote has refused every association "for now" for too long.

    The time counts from the start of the job, and anew from each association that the remote accepts from the fleet. A
    job that has no lease waits on: the remote may accept the next one.

    Returns
    -------
    The error that ends the job, which is recorded; nothing if the job waits on.
    """
    if isinstance(error, NoLeaseError):
        return None
    request, limit = ledger().request(job_id), _LONGEST_REFUSAL
    if isinstance(request, TransferRequest):
        limit = _patience(request)
    elif isinstance(request, EchoRequest):
        # It shows whether the remote accepts an association now.
        limit = timeouts(request).acse
    progress = ledger().progress(job_id)
    seconds = _refused_for(job_id, progress)
    if seconds <= limit:
        return None
    final = PeerBusyError(
        f"{request.remote} accepted no association for {seconds:.0f} s and the job gave up; its outcomes are kept. "
        f"Run `pacs-tasks resume {job_id}` to do the rest. Last answer: {error.message}"
    )
    ledger().fail(job_id, final, progress.attempt)
    return final


def pause_of_part(task: Task, job_id: str) -> float:
    """Record that a part waits for an association; seconds until it comes again.

    The pause grows with the number of its returns, with the time for which the remote refuses associations, and with
    the number of parts that wait.
    """
    ledger().standstills.reset(job_id)
    refused = _refused_for(job_id, ledger().progress(job_id))
    soonest = _about(min(max(1.0, min(task.request.retries / 4, 5.0), refused / 2), LONGEST_PAUSE))
    return budget().schedule_return(_remote_of(job_id), task.request.id, soonest, one_of_many=True)


def pause_of_job(task: Task) -> float:
    """As :func:`pause_of_part`, for a job with a single answer or a planner, which waiting parts do not hold up."""
    job_id = task.request.id
    ledger().standstills.reset(job_id)
    return budget().schedule_return(_remote_of(job_id), job_id, pause(task.request.retries))


def _refused_for(job_id: str, progress: Progress) -> float:
    """Seconds for which the remote has refused this attempt of the job; zero for one that has not started."""
    return 0.0 if progress.started is None else budget().refused_for(_remote_of(job_id), progress.started)


def _remote_of(job_id: str) -> str:
    return name_of(ledger().request(job_id).remote)


def _patience(request: TransferRequest) -> float:
    return settings().give_up_after if request.give_up_after is None else request.give_up_after


def park_if_down(job_id: str, request: TransferRequest) -> None:
    """Park a job whose remote counts as down, and raise :class:`PartParkedError`."""
    if outages().is_down(name_of(request.remote)):
        _park(job_id, request)


def note_unreachable(job_id: str, request: TransferRequest, error: PeerUnreachableError) -> None:
    """Count a failed connection; park the job if the remote counts as down now, and raise :class:`PartParkedError`."""
    remote = request.remote
    if outages().record_failure(name_of(remote), local_ae(request), remote, error.message):
        _park(job_id, request)


def _park(job_id: str, request: TransferRequest) -> None:
    if outages().park(name_of(request.remote), job_id, _patience(request)):
        raise PartParkedError


def come_again_in_time(task: Task, job_id: str, paused: PartPausedError) -> NoReturn:
    """Run a task again when the pace of the remote may allow it, which is no standstill of the job."""
    ledger().standstills.reset(job_id)
    come_again(task, paused.seconds)


def shut_down() -> None:
    """Let every part of this worker end early."""
    _shutdown[0] = 1


def shutting_down() -> bool:
    """Whether this worker shuts down, or the current task shall end early."""
    return bool(_shutdown[0]) or background.current().must_end
