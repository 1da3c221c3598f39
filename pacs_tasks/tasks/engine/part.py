"""A part of a job: a range of lines of its manifest, each with an outcome of its own.

:func:`run_part` serves the task of a part. What it does with its lines is in :mod:`.lines`, or in the retrieves.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar, cast

from celery import Task
from celery.exceptions import TaskPredicate
from redis.exceptions import RedisError

from pacs_tasks.errors import (
    AssociationError,
    JobCancelledError,
    JobNotFoundError,
    MessageError,
    MissingKeyError,
    PacsTasksError,
    PeerBusyError,
    PlainRecordError,
    SealingError,
)
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.journal.audit import RESTRICTED_FUNCTION, Party
from pacs_tasks.journal.logs import add_to_work
from pacs_tasks.ledger.jobs import Recorded
from pacs_tasks.ledger.manifest import Line
from pacs_tasks.ledger.recorder import Recorder
from pacs_tasks.messages.shown import shown_counts
from pacs_tasks.outcome import InstanceOutcome, JobState
from pacs_tasks.request import R
from pacs_tasks.settings import settings
from pacs_tasks.tasks.audit import alert
from pacs_tasks.tasks.engine import background
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
    pause,
    pause_of_part,
    publish_ticket,
    shutting_down,
    store_end,
    unexpected,
)
from pacs_tasks.tasks.engine.claim import MOST_DEATHS, Claim, claimed, poison
from pacs_tasks.tasks.engine.pace import UNPACED, Pacing
from pacs_tasks.tasks.engine.permissions import check_record, check_request

#: Lines that a part may have for its outcomes to be counted again at its end. Users decide how many it has.
_MOST_LINES = 1_000

#: Seconds of work after which a part lets others have their turn, and between two looks whether any wait.
SLICE, _LOOK = 0.15, 0.1

#: The lines of a kind of job.
L = TypeVar("L", bound=Line)


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
        The pace of the remote.
    again
        Something failed for now and is left for the next try.
    sliced
        Others have their turn now.
    undivided
        It does not end for others to have their turn.
    alone
        It is the whole job: an association that cannot be opened ends it at once.
    counts
        What it has recorded, by category.
    """

    def __init__(self, task: Task, recorder: Recorder, claim: Claim, lines: range, tries: int = 0) -> None:
        self.task, self.tries, self._recorder, self.claim = task, tries, recorder, claim
        self.indices = lines
        self.pacing: Pacing = UNPACED
        self.job_id = job_id = recorder.job_id
        self.again = self.sliced = self.undivided = self.alone = False
        #: Several threads may record: what that changes, and the connection of the recorder.
        self._changing = threading.RLock()
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
        with self._changing:
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
        return self.claim() or shutting_down() or self.pacing.closed

    def slice_over(self) -> bool:
        """Whether to end here for now: the part has had its turn, and others wait for theirs.

        A part that has done nothing or leaves something for its next try goes on, or it might never end. So does one in
        the background, which keeps no process from others.
        """
        now = time.monotonic()
        divisible = self._progress and not (self.sliced or self.again or self.undivided)
        if divisible and now >= self._next_look and not background.current().detached:
            self._next_look = now + _LOOK
            priority = (self.task.request.delivery_info or {}).get("priority") or 0
            # One that waits for its remote may go on in the background instead.
            self.sliced = ledger().standstills.others_wait(priority) and not background.current().ask()
        return self.sliced

    def check_end(self) -> None:
        """Raise :class:`JobCancelledError`, :class:`PartSuspendedError`, or as the pacing, if the part must end."""
        if self.claim():
            raise JobCancelledError
        if shutting_down():
            raise PartSuspendedError
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
    try:
        seconds = None
        if not (_has_ended(task, job_id, lines) or (task.request.eta and _is_over(job_id, lines))):
            tries = _tries_of(task, job_id, lines, tries)
            seconds = _tried(task, job_id, lines, tries, work, done=done)
        if seconds is not None:
            if not background.current().keep():
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


def _is_over(job_id: str, lines: range) -> bool:
    """Whether nothing is left of a part and nobody holds it: its ticket need not claim it to see that."""
    free = not ledger().claims.owner(job_id, _name_of(lines))
    return free and len(ledger().recorded(job_id, lines.start, lines.stop)) == len(lines)


def _tries_of(task: Task, job_id: str, lines: range, tries: int) -> int:
    """How often a part was tried: its ticket does not know of those in the background. It comes back for the next."""
    if task.request.eta:
        known, left = ledger().claims.tries(job_id, _name_of(lines))
        tries = max(tries, known)
        if left:
            # The clock of another Redis server may be behind.
            come_back(task, min(left, LONGEST_PAUSE))
    return tries


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
        # Whoever may write to Redis may have changed it since the job began.
        check_record(part.job_id, request, bulk=False)
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
        if isinstance(error, MessageError):
            alert(RESTRICTED_FUNCTION, Party("unknown"), f"The record of job {part.job_id}: {error.message}")
        part.fail_rest(error)
    except Exception as error:  # noqa: BLE001 - a part that raises loses its chord
        part.fail_rest(unexpected(error))
    return False
