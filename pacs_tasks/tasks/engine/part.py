"""A part of a job: a range of lines of its manifest, each with an outcome of its own.

:func:`run_part` serves the task of a part. :class:`LineQueue` is the loop over its lines on one association after the
other, which sending and querying share; what differs between them is a step (:meth:`LineQueue.step`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Generic, TypeVar, cast

from celery import Task
from celery.exceptions import TaskPredicate
from redis.exceptions import RedisError

from pacs_tasks import tracing
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import (
    AssociationError,
    JobCancelledError,
    JobNotFoundError,
    MissingKeyError,
    PacsTasksError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
    PlainRecordError,
    SealingError,
)
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.tuning import Trouble
from pacs_tasks.ledger.jobs import Recorded
from pacs_tasks.ledger.manifest import Line
from pacs_tasks.ledger.recorder import Recorder
from pacs_tasks.logs import add_to_work
from pacs_tasks.messages.shown import shown_counts
from pacs_tasks.outcome import InstanceOutcome, JobState, Status, StatusCategory
from pacs_tasks.request import R, TransferRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.engine.associations import kept_association
from pacs_tasks.tasks.engine.base import (
    BROKER_AWAY,
    LONGEST_PAUSE,
    PartParkedError,
    PartPausedError,
    PartSuspendedError,
    come_again,
    come_again_in_time,
    come_back,
    give_up,
    go_back,
    hold,
    ledger,
    note_unreachable,
    park_if_down,
    pause,
    pause_of_part,
    publish_ticket,
    shutting_down,
    store_end,
    unexpected,
)
from pacs_tasks.tasks.engine.claim import MOST_DEATHS, Claim, claimed, poison
from pacs_tasks.tasks.engine.leases import Lease
from pacs_tasks.tasks.engine.pace import Pacing
from pacs_tasks.tasks.engine.permissions import check_request
from pacs_tasks.tasks.engine.session import Loss, Session

#: Associations that may be lost in one try of a part before the rest of it goes back to the queue.
_LOSSES_OF_A_TRY = 2
#: Associations that may be lost at one line before it fails: some files and queries make a remote abort each time.
_LOSSES_OF_A_LINE = 3
#: Workers that may die with a part, for whatever reason, before the rest of it fails.
_MOST_DEATHS_OF_A_PART = 10

#: Lines that a part may have for its outcomes to be counted again at its end. Users decide how many it has.
_MOST_LINES = 1_000

#: Seconds of work after which a part lets others have their turn, and between two looks whether any wait.
SLICE, _LOOK = 0.15, 0.1

#: The lines of a kind of job, and the form in which a queue holds them.
L = TypeVar("L", bound=Line)
T = TypeVar("T")


class Part(Generic[L]):
    """The running part of a job: the lines of its range without an outcome, and the way to record one.

    Attributes
    ----------
    indices
        Its lines in the manifest.
    left
        By its index in the manifest, each line without an outcome.
    lost
        By its index, how many associations were lost at a line, where some were.
    tries
        How often the part was tried before.
    last_try
        Whether what could be tried again later fails now.
    pacing
        The pace of the remote, if it has one.
    again
        Something failed for now and is left for the next try.
    sliced
        Others have their turn now.
    undivided
        It does not end for others to have their turn.
    counts
        What it has recorded, by category.
    """

    def __init__(self, task: Task, recorder: Recorder, claim: Claim, lines: range, tries: int = 0) -> None:
        self.task, self.tries, self._recorder, self.claim = task, tries, recorder, claim
        self.indices = lines
        self.pacing: Pacing | None = None
        self.job_id = job_id = recorder.job_id
        self.again = self.sliced = self.undivided = False
        self._progress, self._next_look = False, time.monotonic() + SLICE
        self.last_try = tries >= settings().max_retries
        recorded = ledger().recorded(job_id, lines.start, lines.stop)
        self._attempts = ledger().claims.attempts(job_id, lines.start, lines.stop)
        self.lost = ledger().claims.losses(job_id, lines.start, lines.stop) if any(self._attempts) else {}
        found = cast(list[L], ledger().manifest.lines(job_id, lines.start, lines.stop))
        self.left: dict[int, L] = {
            index: line for index, line in zip(lines, found, strict=False) if index not in recorded
        }
        self.counts = Counter[str]()

    @property
    def size(self) -> int:
        return len(self.indices)

    def record(self, index: int, outcome: InstanceOutcome) -> None:
        """Record an outcome as soon as it is known. The part that records the last one ends the job.

        Raises
        ------
        JobCancelledError
            If the job was cancelled; the outcome is recorded.
        """
        self._progress = True
        self.counts[outcome.category.value] += 1
        attempts = self._attempts[index - self.indices.start] + (outcome.begun > 0)
        receipt = outcome.model_copy(update={"worker": self.task.request.hostname, "attempts": attempts})
        self.left.pop(index, None)
        if self.lost.pop(index, 0):
            ledger().claims.count_retrying(self.job_id, -1)
        self._obey(self._recorder.record(index, receipt))

    def fail(self, index: int, error: PacsTasksError) -> None:
        """Record a line as failed; see :meth:`record`."""
        self.record(index, InstanceOutcome.unanswered(self.left[index].subject, error))

    def fail_rest(self, error: PacsTasksError) -> None:
        """Record all that is left as failed; see :meth:`record`."""
        for index in list(self.left):
            self.fail(index, error)

    def flush(self) -> None:
        """Wait until every outcome is in the ledger."""
        self._obey(self._recorder.flush())

    def _obey(self, recorded: Recorded) -> None:
        if recorded.ended:
            store_end(self.task, self.job_id)
        if recorded.cancelled:
            self.claim.cancelled = True
            raise JobCancelledError

    def must_end(self) -> bool:
        """Whether to stop waiting for the remote: the job was cancelled, the worker shuts down, or its hours end."""
        return self.claim() or shutting_down() or (self.pacing is not None and self.pacing.closed)

    def slice_over(self) -> bool:
        """Whether to end here for now: the part has had its turn, and others wait for theirs.

        A part that has done nothing or leaves something for its next try goes on, or it might never end. So does one in
        the background, which keeps no process from others.
        """
        now = time.monotonic()
        divisible = self._progress and not (self.sliced or self.again or self.undivided)
        if divisible and now >= self._next_look and not background.detached():
            self._next_look = now + _LOOK
            priority = (self.task.request.delivery_info or {}).get("priority") or 0
            # One that waits for its remote may go on in the background instead.
            self.sliced = ledger().standstills.others_wait(priority) and not background.ask()
        return self.sliced

    def check_end(self) -> None:
        """Raise :class:`JobCancelledError`, :class:`PartSuspendedError`, or as the pacing, if the part must end."""
        if self.claim():
            raise JobCancelledError
        if shutting_down():
            raise PartSuspendedError
        if self.pacing is not None:
            self.pacing.check()

    def begin(self, index: int) -> None:
        """Note that work on a line begins, if a worker has died with this part: that finds the line it died of."""
        if self.claim.deaths:
            ledger().claims.record_begun(self.job_id, self.claim.name, index)

    def quarantine(self) -> None:
        """Fail the line at which several workers have died, so that the others are done."""
        suspect = ledger().claims.suspect(self.job_id, self.claim.name) if self.claim.deaths else None
        if suspect is None:
            return
        index, deaths = suspect
        # The first worker died before it noted anything.
        if index in self.left and deaths + 1 >= MOST_DEATHS:
            self.fail(index, poison(deaths + 1))

    def count_attempt(self, index: int) -> None:
        """Count that a line was sent to the remote without an outcome."""
        self._attempts[index - self.indices.start] += 1
        ledger().claims.count_attempt(self.job_id, index)

    def count_loss(self, index: int) -> None:
        """Count an association that was lost at a line."""
        if index not in self.lost:
            ledger().claims.count_retrying(self.job_id, 1)
        self.lost[index] = ledger().claims.count_loss(self.job_id, index)


class LineQueue(ABC, Generic[T]):
    """Lines of a part for one association: the loop over them, over another association where one is lost.

    The line at which an association is lost is put aside for the next try, so that it does not hold up the others.

    Parameters
    ----------
    contexts
        The presentation contexts to propose.
    stop
        Ends the wait for the remote.
    queue
        By its index in the manifest, each line in the form in which :meth:`step` needs it; in order.
    alone
        The part is the whole job: an association that cannot be opened ends it at once.
    patience
        Seconds that the remote may stay silent, if that is less than usual.

    Attributes
    ----------
    unanswered
        The indices of lines that were sent to the remote and have no answer.
    answered
        Whether the remote has answered a request of the step that runs.
    """

    #: The DIMSE service, for traces.
    service: ClassVar[str]
    #: Whether the loss of an association over which something was done does not count.
    spares_progress: ClassVar[bool] = False

    def __init__(
        self,
        part: Part[Any],
        request: TransferRequest,
        contexts: Sequence[Context],
        stop: StopCheck,
        queue: Mapping[int, T],
        *,
        alone: bool = False,
        patience: float | None = None,
    ) -> None:
        self.part, self.request, self._alone = part, request, alone
        self.queue = dict(queue)
        self.unanswered: set[int] = set()
        self.answered = False
        self._losses = 0
        #: The lease of the last association.
        self.lease: Lease | None = None
        self._session = Session(
            lambda: kept_association(
                request, part.job_id, contexts, stop, patience=patience, note_lease=self._note_lease
            )
        )

    def _note_lease(self, lease: Lease) -> None:
        self.lease = lease

    def must_yield(self) -> bool:
        """Whether to go on over another association, since others have a better right to this one."""
        return self.lease is not None and self.lease.must_yield()

    @abstractmethod
    def step(self, assoc: Association) -> None:
        """Do the first line, or several; remove each from ``queue`` when it has its answer."""

    def work(self) -> None:
        """Work until the queue is empty, the try is over or others have their turn.

        Raises
        ------
        PeerBusyError
            If there is no association now.
        """
        try:
            with tracing.span(settings().traces, self.service, **self._about()), self._session:
                while self.queue and not self.part.slice_over():
                    self.part.check_end()
                    if self.must_yield():
                        self._session.close()
                    self._session.attempt(self.step, self._lost)
        except PeerBusyError:
            raise
        except AssociationError as error:
            if self._alone:
                raise
            if isinstance(error, PeerUnavailableError) and not self.part.last_try:
                self.part.again |= bool(self.queue)
            else:
                while self.queue:
                    self.part.fail(self._pop(), error)
        except JobCancelledError:
            self.part.check_end()
            raise
        if self.part.claim.cancelled:
            raise JobCancelledError

    def _about(self) -> dict[str, str | int]:
        return {"remote": name_of(self.request.remote), "lines": len(self.queue)}

    def try_later(self, index: int, status: Status | None) -> bool:
        """Leave a line for the next try if its status is transient; false if it has an outcome now."""
        self.unanswered.discard(index)
        if status is None or status.category is not StatusCategory.TRANSIENT or self.part.last_try:
            return False
        self.part.count_attempt(index)
        self.part.again = True
        return True

    def _lost(self, loss: Loss) -> None:
        if loss.opened and self.spares_progress and (self.answered or not loss.first):
            return
        if loss.opened:
            self._losses += 1
            self._put_aside(loss.error)
            if self._losses < _LOSSES_OF_A_TRY:
                return
            raise self.lost_error(loss.error)
        if not self._alone and isinstance(loss.error, PeerUnreachableError):
            note_unreachable(self.part.job_id, self.request, loss.error)
        raise loss.error

    def _put_aside(self, error: PeerUnavailableError) -> None:
        for each in self.unanswered:
            self.part.count_attempt(each)
        self.unanswered.clear()
        index = self._pop()
        if self.lease is not None and index not in self.part.lost:
            # Some files make a remote abort each time.
            self.lease.note(Trouble.ABORTED)
        self.part.count_loss(index)
        failure = self.failure(index, error) or (self.lost_error(error) if self.part.last_try else None)
        if failure is not None:
            self.part.fail(index, failure)
        else:
            self.part.again = True

    def failure(self, index: int, error: PeerUnavailableError) -> PeerUnavailableError | None:
        """The error with which a line fails at which an association was lost; nothing if it is tried again."""
        return error if self.part.lost[index] >= _LOSSES_OF_A_LINE else None

    def lost_error(self, error: PeerUnavailableError) -> PeerUnavailableError:
        """The error of lines for which no try is left after an association was lost."""
        return error

    def _pop(self) -> int:
        index = next(iter(self.queue))
        del self.queue[index]
        return index


def work_off(
    part: Part[L], request: TransferRequest, queues: Callable[[], Iterable[LineQueue[Any]]], *, alone: bool = False
) -> bool:
    """Work off the queues of a part; true if something is left that should be tried again later.

    Parameters
    ----------
    queues
        Gives the queues, after the part was found fit to run.
    alone
        As for :class:`LineQueue`.

    Raises
    ------
    PeerBusyError, PartPausedError
        If only the lack of an association, or the pace, keeps the rest from being done: that is not a try.
    """
    if part.claim.deaths >= _MOST_DEATHS_OF_A_PART:
        raise poison(part.claim.deaths)
    part.quarantine()
    if not alone:
        park_if_down(part.job_id, request)
    for queue in queues():
        try:
            queue.work()
        except (PeerBusyError, PartPausedError):
            if not part.again:
                raise
            return True
        if part.sliced and part.left:
            raise PartSuspendedError
    return part.again


def run_part(task: Task, job_id: str, lines: range, tries: int, work: Callable[[Part[L], R], bool]) -> str:
    """Serve the task of a part. It comes again later if ``work`` returns true.

    A part for which there is no association or token now comes again as well, which does not count as a try. A part
    that is parked or cancelled just ends: what it has not begun has no outcome, so the probe or ``retry`` finds it. Any
    other error fails the rest of the part and spares the chord.

    Parameters
    ----------
    lines
        The range of the part in the manifest.
    tries
        How often it failed for now. Celery's own count also includes waits for a claim or an association.

    Returns
    -------
    str
        What it did, in numbers, for whoever watches.
    """
    done: Counter[str] = Counter()
    name = _name_of(lines)
    try:
        if task.request.eta:
            known, left = ledger().claims.tries(job_id, name)
            tries = max(tries, known)
            if left:
                # The clock of another Redis server may be behind.
                come_back(task, min(left, LONGEST_PAUSE))
        seconds = None if _has_ended(task, job_id, lines) else _tried(task, job_id, lines, tries, work, done=done)
        if seconds is not None:
            if not background.keep():
                publish_ticket(task, seconds)
            come_again(task, seconds, kwargs={"tries": tries + 1})
    except JobNotFoundError:
        pass  # Its record has expired.
    except BROKER_AWAY as error:
        go_back(error)
    except PartSuspendedError:
        # That is not a try: pauses grow with Celery's count.
        task.request.retries = -1
        come_again(task, 0, kwargs={"tries": tries})
    except PartPausedError as paused:
        come_again_in_time(task, job_id, paused)
    except (MissingKeyError, PlainRecordError) as error:
        hold(task, job_id, error)
    except SealingError as error:
        ledger().fail(job_id, error)
    return _shown(task, job_id, lines, done)


def _shown(task: Task, job_id: str, lines: range, done: Counter[str]) -> str:
    """What a part did, in numbers; from the ledger if it did some of it before, or goes on in the background."""
    if done.total() < len(lines) <= _MOST_LINES:
        with suppress(*BROKER_AWAY, RedisError, LookupError, TypeError, ValueError):
            return shown_counts(task.name, ledger().counts(job_id, lines))
    return shown_counts(task.name, done)


def _name_of(lines: range) -> str:
    """Name the claim on a part."""
    return f"{lines.start}-{lines.stop}"


def _has_ended(task: Task, job_id: str, lines: range) -> bool:
    """Whether a part comes too late; the one that ended the job may have died before Celery had its summary.

    Nor is there anything to do for a part of lines that the job does not have, which no planner has sent.
    """
    progress = ledger().progress(job_id)
    if progress.state is JobState.DONE:
        store_end(task, job_id)
    return progress.state.finished or not 0 <= lines.start <= lines.stop <= progress.counters.total


def _tried(
    task: Task, job_id: str, lines: range, tries: int, work: Callable[[Part[L], R], bool], *, done: Counter[str]
) -> float | None:
    """Try a part once, and add to ``done`` what it recorded; return in how many seconds it should be tried again."""
    try:
        with (
            claimed(task, ledger(), job_id, _name_of(lines)) as claim,
            Recorder(ledger(), job_id) as recorder,
        ):
            if task.request.eta and ledger().claims.tries(job_id, _name_of(lines))[0] > tries:
                # Another body has made this try since it was looked for.
                come_back(task, pause(tries))
            part: Part[L] = Part(task, recorder, claim, lines, tries)
            if not part.left or ledger().cancel_requested(job_id):
                return None
            try:
                again = _worked(part, work)
            except (PartParkedError, JobCancelledError):
                return None
            finally:
                if part.pacing is not None:
                    part.pacing.close()
                done.update(part.counts)
                with suppress(JobCancelledError):
                    part.flush()
            if not again:
                return None
            seconds = pause(tries)
            # Under the claim: tickets that are under way do not know of this try.
            ledger().claims.record_try(job_id, _name_of(lines), tries + 1, seconds)
            return seconds
    except PeerBusyError as error:
        come_again(task, pause_of_part(task, job_id), exc=error.public())


def _worked(part: Part[L], work: Callable[[Part[L], R], bool]) -> bool:
    try:
        request = ledger().request(part.job_id)
        add_to_work(remote=name_of(request.remote))
        check_request(request)
        return work(part, cast(R, request))
    except PeerBusyError as error:
        if give_up(part.job_id, error) is None:
            raise
    except (AssociationError, JobCancelledError, JobNotFoundError, TaskPredicate):
        raise
    except (PartParkedError, PartPausedError, PartSuspendedError):
        raise
    except (*BROKER_AWAY, MissingKeyError, PlainRecordError):
        raise
    except PacsTasksError as error:
        part.fail_rest(error)
    except Exception as error:  # noqa: BLE001 - a part that raises loses its chord
        part.fail_rest(unexpected(error))
    return False
