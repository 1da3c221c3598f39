"""A worker's claim on a job or a part, the heartbeat that keeps it alive, and the watches that resume jobs.

While a worker holds a claim, no other works on the same thing. Redis delivers a message again when its worker has been
silent for longer than the visibility timeout, even if that worker is only busy; the claim keeps the second worker from
sending the same files.

One thread per process prolongs its claims and leases as long as their owners show signs of life: a task may be busy for
a while with a slow disk or name server. A process that is dead or stopped has no heartbeat, and a task that hangs for a
minute loses what it holds.

A Redis that dies may have sent messages that never arrived, and a worker that dies may lose one before Redis records
its delivery: nobody would resume that part. So each worker looks for jobs that no worker holds and that stand still,
and sends ``pacs_tasks.resume`` through the job's own queue. That task runs after all other messages of the job in
that queue. If the job still stands still then, a message is lost, and the planner runs again for what has no outcome.

One worker at a time probes each remote that is down, at growing intervals, and enqueues the jobs that wait for it when
it is back. In the same manner, the jobs that wait for the hours of a remote are enqueued when these begin.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import NoReturn, Protocol

import redis
from celery import Celery, Task
from celery.exceptions import Ignore

from pacs_tasks.app import VISIBILITY_TIMEOUT, app
from pacs_tasks.dimse import c_echo
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import (
    JobFailedError,
    JobNotFoundError,
    PacsTasksError,
    PeerBusyError,
    PeerUnavailableError,
)
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.outages import Outages, Probe
from pacs_tasks.fleet.pace import HoursWaits
from pacs_tasks.ledger.claims import CLAIM_LIFETIME
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import server_time
from pacs_tasks.operations import (
    HIDDEN,
    MESSAGE_PRIORITIES,
    OPERATIONS,
    PART_PRIORITIES,
    QUEUE_KEYS,
    UNACKED,
    message_priority,
)
from pacs_tasks.request import AnyRequest, Priority
from pacs_tasks.settings import settings
from pacs_tasks.settings.pace import Hours
from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.engine.base import come_back, ledger, outages, quickly, register

logger = logging.getLogger(__name__)

#: Seconds between two heartbeats.
_BEAT = CLAIM_LIFETIME / 3
#: Seconds without a sign of life after which the heartbeat prolongs nothing.
_SILENCE = 60.0
#: Seconds between two checks of the cancel flag.
_CANCEL_CHECK = 0.4
#: Seconds that the remote has to answer for the file in progress when a cancel comes: that answer still counts.
_LAST_ANSWER = 2.0
#: Seconds after which a task whose claim another holds tries again; the longer it was held, the more, up to the second.
_STEP_BACK, _LONGEST_STEP_BACK = 2.0, 10.0
#: Workers that may die at one thing before it fails: it is the likely cause.
MOST_DEATHS = 3
#: Seconds that the other tasks of a process have to end for one that may kill it.
_LONE = 40.0


class Held(Protocol):
    """Something that the heartbeat keeps alive."""

    @property
    def seen(self) -> float:
        """When its owner last gave a sign of life, by :func:`time.monotonic`."""

    def prolong(self) -> None:
        """Hold it for another lifetime; may raise what an unavailable Redis raises."""


class Heartbeat:
    """The heartbeat of one process; its thread runs while there is something to keep alive."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[Held] = set()
        self._thread: threading.Thread | None = None

    def keep(self, held: Held) -> None:
        with self._changed:
            self._held.add(held)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
                self._thread.start()

    def forget(self, held: Held) -> None:
        """Prolong it no more; none is under way when this returns."""
        with self._changed:
            self._held.discard(held)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._held:
                    self._thread = None
                    return
                self._changed.wait(_BEAT)
                for held in self._held:
                    if time.monotonic() - held.seen < _SILENCE:
                        quickly(held.prolong, "a claim or a lease was not prolonged")


#: Gives the heartbeat of this process.
heartbeat = background.per_process(Heartbeat)


class Claim:
    """A claim. Call it to learn whether the job was cancelled; each call is a sign of life, so call it while you wait.

    Parameters
    ----------
    task
        Steps back when the claim has gone to another worker, for example because this machine slept.
    ledger, scope, name
        As for :meth:`pacs_tasks.ledger.claims.Claims.claim`.
    job_id
        The job whose cancel flag is watched.

    Attributes
    ----------
    deaths
        How many workers have died with this claim.
    """

    def __init__(self, task: Task, ledger: Ledger, scope: str, name: str, job_id: str) -> None:
        self._task, self._ledger, self._scope, self.name, self.job_id = task, ledger, scope, name, job_id
        # With the thread: a process may receive the same task twice. With the time: see `_step_back`.
        self.owner = (
            f"{task.request.hostname} {os.getpid()} {threading.get_ident()} {task.request.id} {time.time():.0f}"
        )
        self.cancelled = self._lost = self._stepped_back = False
        self._stepping_back = threading.Lock()
        self.seen = self._checked = time.monotonic()
        self._expires = self.seen + CLAIM_LIFETIME
        held = self._ledger.claims.claim(scope, name, self.owner)
        if not held:
            self._step_back()
        self.deaths = held - 1
        heartbeat().keep(self)

    def __call__(self) -> bool:
        self.seen = now = time.monotonic()
        background.current().check_time()
        if now >= self._expires:
            # Redis was silent for so long that another worker may hold it: the same work must not be done twice.
            self.prolong()
        if self._lost:
            self._step_back()
        if not self.cancelled and now - self._checked >= _CANCEL_CHECK:
            self._checked = now
            self.cancelled = self._ledger.cancel_requested(self.job_id)
        return self.cancelled

    def overdue(self) -> bool:
        """As a call, but true only after the remote had time to answer for the file in progress."""
        return self() and time.monotonic() - self._checked >= _LAST_ANSWER

    def prolong(self) -> None:
        """Hold the claim for another lifetime; the heartbeat's thread calls it."""
        now = time.monotonic()
        # Expired claims stay. One that is gone was another worker's, which has released it.
        gone = now >= self._expires and self._ledger.claims.owner(self._scope, self.name) != self.owner
        self._lost = self._lost or gone or not self._ledger.claims.claim(self._scope, self.name, self.owner)
        self._expires = now + CLAIM_LIFETIME

    def check_deaths(self, most: int = MOST_DEATHS) -> None:
        """Raise :class:`JobFailedError` if so many workers have died at this work."""
        if self.deaths >= most:
            raise poison(self.deaths)

    def release(self) -> None:
        heartbeat().forget(self)
        self._ledger.claims.release(self._scope, self.name, self.owner)
        self._ledger.settle(self.job_id)

    def _step_back(self) -> NoReturn:
        with self._stepping_back:
            # Each thread of the part learns that the claim is lost: its message goes back once.
            if self._stepped_back:
                raise Ignore
            self._stepped_back = True
        since = self._ledger.claims.owner(self._scope, self.name).rpartition(" ")[2]
        held_for = time.time() - int(since) if since.isdigit() else 0.0
        come_back(self._task, min(max(held_for / 4, _STEP_BACK), _LONGEST_STEP_BACK))


def poison(deaths: int) -> JobFailedError:
    """The error of work at which so many workers died."""
    return JobFailedError(
        f"{deaths} workers died while they worked on this. "
        "Check their logs and the memory of their machines, then retry the job."
    )


@contextmanager
def claimed(task: Task, ledger: Ledger, job_id: str, name: str, scope: str | None = None) -> Iterator[Claim]:
    """Hold a claim during the block, in a scope if not of the job; if another worker holds it, the task comes again."""
    claim = Claim(task, ledger, scope or job_id, name, job_id)
    try:
        # Whoever shares the process would die as well.
        if claim.deaths >= MOST_DEATHS - 1 and not background.be_alone(_LONE, claim):
            come_back(task, 0)
        yield claim
    finally:
        claim.release()


#: Seconds without a sign of life after which a job stands still: the messages of a dead worker are back by then.
PATIENCE = VISIBILITY_TIMEOUT + 30
#: The same where no queue has a message and no worker holds one.
PATIENCE_WHEN_IDLE = 10.0
#: Seconds after the end of a job at which Celery has it, unless the message that ends the task was lost.
_PATIENCE_AT_THE_END = 10.0
#: Seconds between two rounds of each watch.
_RESUME_INTERVAL = 10.0
_PROBE_INTERVAL = 1.0
#: What reading the record of a job raises if something else wrote it.
_NOT_A_RECORD = (redis.ResponseError, LookupError, TypeError, ValueError)
#: Seconds that a remote may take for each step of its answer to a probe.
_PROBE_TIMEOUTS = Timeouts.of(5.0)


@register("pacs_tasks.resume", ignore_result=True)
def resume(_: Task, job_id: str, seen: str) -> None:
    """Enqueue the task of a job again if the job still stands still as ``seen``."""
    if ledger().standstills.persists(job_id, seen):
        logger.warning("job %s stands still; its task is enqueued again", job_id)
        _enqueue(app, ledger(), job_id)


def _enqueue(celery: Celery, record: Ledger, job_id: str) -> None:
    """Enqueue the task of a job again."""
    task, request = record.progress(job_id).task, _request(record, job_id)
    priority = message_priority(request) if request else MESSAGE_PRIORITIES[0]
    celery.send_task(task, task_id=job_id, argsrepr=HIDDEN, kwargsrepr=HIDDEN, priority=priority)


def _request(record: Ledger, job_id: str) -> AnyRequest | None:
    """The request of a job, if this process can read it."""
    try:
        return record.request(job_id)
    except PacsTasksError:
        return None


def resume_stalled(celery: Celery, record: Ledger, patience: float = PATIENCE) -> None:
    """Send ``pacs_tasks.resume`` for each job that has stood still for ``patience`` seconds."""
    if not record.client.exists(*QUEUE_KEYS, UNACKED):
        patience = min(patience, PATIENCE_WHEN_IDLE)
    for job_id in record.standstills.unfinished_jobs():
        try:
            seen = record.standstills.check(job_id, patience)
            queue = OPERATIONS[record.progress(job_id).task].queue
        except (JobNotFoundError, *_NOT_A_RECORD):
            continue
        if seen:
            # After the messages of its parts.
            request = _request(record, job_id)
            priority = PART_PRIORITIES[request.priority if request else Priority.BULK]
            celery.send_task("pacs_tasks.resume", args=[job_id, seen], queue=queue, priority=priority)


def publish_ends(celery: Celery, record: Ledger) -> None:
    """Enqueue the task of each job that has ended without its message, for the services that wait for its result.

    Such a job gave up waiting for its remote, was cancelled while it waited, or lost the last message of its chord.
    """
    for job_id in record.callers.waiting():
        try:
            progress = record.progress(job_id)
        except (JobNotFoundError, *_NOT_A_RECORD):
            record.callers.forget(job_id)
            continue
        overdue = progress.finished and server_time(record.client) - progress.finished > _PATIENCE_AT_THE_END
        if overdue and record.callers.begin_publishing(job_id):
            _enqueue(celery, record, job_id)


def probe_remotes(celery: Celery, record: Ledger, known: Outages) -> None:
    """Probe the remotes that are due; enqueue the jobs of those that are back, and fail those that waited too long."""
    for probe in known.due():
        if _answers(probe):
            waiting = known.end(probe.name)
            logger.info("%s is back; %d jobs go on", probe.name, len(waiting))
            for job_id in waiting:
                with suppress(JobNotFoundError):
                    _enqueue(celery, record, job_id)
        else:
            for job_id in known.still_down(probe.name):
                logger.warning("job %s gives up waiting for %s", job_id, probe.name)
                record.fail(job_id, _given_up(str(probe.remote), job_id))


def resume_in_hours(celery: Celery, record: Ledger, hours: Mapping[str, Hours]) -> None:
    """Enqueue the jobs that waited for the hours of a remote, by its name, and those whose wait is over elsewhere.

    The settings of this worker may have changed since, or name other remotes than those of the worker that parked it.
    """
    waits, now = HoursWaits(record.client), time.time()
    for wait in waits.all():
        begun = hours[wait.remote].hold(now) if wait.remote in hours else wait.until <= now
        if begun and waits.end(wait.job_id):
            logger.info("the hours of %s have begun; job %s goes on", wait.remote, wait.job_id)
            with suppress(JobNotFoundError):
                _enqueue(celery, record, wait.job_id)


@cache
def _hours() -> Mapping[str, Hours]:
    """The hours of the remotes that this worker's settings name."""
    found = {name_of(each): each.pace.hours for each in settings().remotes.values()}
    return {name: hours for name, hours in found.items() if hours is not None}


def _answers(probe: Probe) -> bool:
    """Whether an association can be opened; a remote that rejects the association or C-ECHO is back as well."""
    try:
        c_echo.echo(probe.local, probe.remote, _PROBE_TIMEOUTS)
    except PeerBusyError:
        return True
    except PeerUnavailableError as error:
        logger.debug("probe: %s", error.message)
        return False
    except PacsTasksError:
        return True
    return True


def _given_up(remote: str, job_id: str) -> PeerUnavailableError:
    return PeerUnavailableError(
        f"{remote} went down and did not come back in time, so the job gave up; its outcomes are kept. "
        f"Run `pacs-tasks resume {job_id}` to do the rest, or raise --give-up-after."
    )


def watch_jobs(stopped: threading.Event) -> None:
    """Resume jobs that stand still, and publish the end of those that services wait for, until ``stopped``."""

    def watch() -> None:
        resume_stalled(app, ledger())
        publish_ends(app, ledger())

    repeat(stopped, _RESUME_INTERVAL, watch)


def watch_remotes(stopped: threading.Event) -> None:
    """Probe remotes that are down, and look for hours that have begun, until ``stopped``."""

    def watch() -> None:
        probe_remotes(app, ledger(), outages())
        resume_in_hours(app, ledger(), _hours())

    repeat(stopped, _PROBE_INTERVAL, watch)


def repeat(stopped: threading.Event, interval: float, watch: Callable[[], None]) -> None:
    """Call ``watch`` at intervals; an error in one round does not end the others."""
    while not stopped.wait(interval):
        try:
            watch()
        except Exception as error:  # noqa: BLE001 - Redis may be unavailable in many ways
            logger.warning("a watch for stalled jobs or remotes failed (%s); it runs again", type(error).__name__)
