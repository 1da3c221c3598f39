"""A job that has one outcome per file or instance, in either direction: planner, native chord of parts, finish.

::

    planner   writes the manifest, replaces itself with
    └ chord   header = parts, each a range of the manifest; body = finish, which takes over the planner's id,
              so that ``AsyncResult(job_id).get()`` of any Celery caller yields the summary

Header tasks never raise for a file and have no result; ``finish`` reads the ledger alone. Whichever part records the
last outcome ends the job as well, so a body that Redis loses or runs twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from celery import Task, chord
from celery.exceptions import Ignore, Retry
from celery.states import SUCCESS

from pacs_tasks.errors import (
    AssociationError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    PacsTasksError,
    PeerBusyError,
)
from pacs_tasks.ledger.jobs import Recorded
from pacs_tasks.ledger.manifest import Entry
from pacs_tasks.ledger.recorder import Recorder
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.outcome.progress import JobState
from pacs_tasks.tasks.engine.base import (
    given_up,
    ledger,
    pause_of_part,
    result_of,
    unexpected,
)
from pacs_tasks.tasks.engine.claim import MOST_DEATHS, Claim, claimed, poison
from pacs_tasks.tasks.engine.parking import PartParkedError
from pacs_tasks.tasks.engine.retry import BROKER_AWAY, come_again, go_back
from pacs_tasks.tasks.engine.shutdown import WorkerStoppingError, stopping

#: Parts that got lost are planned again this often without any outcome in between; then they fail.
_MOST_REPLANS = 3
#: Seconds after which ``finish`` looks again when parts are still at work.
_LOOK_AGAIN = 5

#: Start and end of a part in the manifest, as a Python slice.
Range = tuple[int, int]


def pending(job_id: str, ranges: Iterable[Range]) -> list[Range]:
    """Those ranges that hold an index without an outcome."""
    ranges = list(ranges)
    recorded = ledger().recorded(job_id, 0, max((stop for _, stop in ranges), default=0))
    return [(start, stop) for start, stop in ranges if any(index not in recorded for index in range(start, stop))]


def fan_out(task: Task, job_id: str, ranges: Sequence[Range], part: Task, finish: Task) -> None:
    """Replace the running task by a chord over ``ranges``. A part's message holds the job's id and the range alone."""
    task.replace(chord([part.si(job_id, start, stop) for start, stop in ranges], body=finish.si(job_id)))


def finish(task: Task, job_id: str, ranges: Callable[[str], list[Range]], part: Task) -> dict[str, Any]:
    """Serve the chord's body: the job's summary; parts that got lost are planned again, for what is left only."""
    ledger().settle(job_id)
    progress = ledger().progress(job_id)
    if not progress.state.finished:
        if progress.waiting_for:
            raise Ignore  # Whoever notices that the remote is back hands out the rest.
        if ledger().claims.live(job_id):
            come_again(task, _LOOK_AGAIN)
        if ledger().claims.replans(job_id) <= _MOST_REPLANS:
            fan_out(task, job_id, ranges(job_id), part, finish=task)
        with (
            claimed(task, ledger(), job_id, "finish") as claim,
            Recorder(ledger(), job_id) as recorder,
            suppress(PartCancelledError),
        ):
            part = Part(task, recorder, claim, 0, progress.counters.total)
            part.fail_rest(_lost())
            part.flush()
    return _store_summary(task, job_id)


def _lost() -> JobFailedError:
    return JobFailedError(
        f"it was handed to workers {_MOST_REPLANS + 1} times and no word of it came back; "
        "look into the workers' logs, then retry the job"
    )


class PartCancelledError(Exception):
    """The job's cancel flag was seen while a part recorded."""


class Part:
    """The running part of a job: what is left of its range, and where its outcomes go."""

    def __init__(self, task: Task, recorder: Recorder, claim: Claim, start: int, stop: int) -> None:
        self._task = task
        self._recorder = recorder
        self.job_id = job_id = recorder.job_id
        self.claim = claim
        self.size = stop - start
        recorded = ledger().recorded(job_id, start, stop)
        self._start, self._attempts = start, ledger().claims.attempts(job_id, start, stop)
        entries = ledger().manifest.entries(job_id, start, stop)
        #: Index in the manifest to its line, for what has no outcome yet.
        self.left: dict[int, Entry] = {
            index: entry for index, entry in enumerate(entries, start) if index not in recorded
        }

    @property
    def indices(self) -> range:
        """Its lines of the manifest."""
        return range(self._start, self._start + self.size)

    def record(self, index: int, outcome: InstanceOutcome) -> None:
        """Record the outcome the moment it is known. The part that records the last one ends the job."""
        attempts = self._attempts[index - self._start] + (outcome.begun > 0)
        receipt = outcome.model_copy(update={"worker": self._task.request.hostname, "attempts": attempts})
        self.left.pop(index, None)
        self._heed(self._recorder.record(index, receipt))

    def must_end(self) -> bool:
        """Whether to stop waiting for the peer: the job was cancelled, or the worker ends."""
        return self.claim() or stopping()

    def begin(self, index: int) -> None:
        """A file is about to be worked on. Where a worker has died with this part, that is noted, so that the file it
        died of is found; each further worker that dies at it confirms the suspicion.
        """
        if self.claim.deaths:
            ledger().claims.mark(self.job_id, self.claim.name, index)

    def quarantine(self) -> None:
        """Fail the file that several workers have died of, so that the others are sent."""
        suspect = ledger().claims.suspect(self.job_id, self.claim.name) if self.claim.deaths else None
        if suspect is None:
            return
        index, deaths = suspect
        # One more died before anything was noted.
        if index in self.left and deaths + 1 >= MOST_DEATHS:
            self.record(index, InstanceOutcome.unanswered(self.left[index][0], poison(deaths + 1)))

    def flush(self) -> None:
        """Have every outcome in the ledger."""
        self._heed(self._recorder.flush())

    def _heed(self, told: Recorded) -> None:
        if told.ended:
            _store_summary(self._task, self.job_id)
        if told.cancelled:
            raise PartCancelledError

    def count_attempt(self, index: int) -> None:
        """Count that a file was put on the wire for nothing."""
        self._attempts[index - self._start] += 1
        ledger().claims.count_attempt(self.job_id, index)

    def count_loss(self, index: int) -> int:
        """Count an association that was lost at this file or instance; how many there were."""
        return ledger().claims.count_loss(self.job_id, index)

    def fail_rest(self, error: PacsTasksError) -> None:
        """Record that nothing more will come of this part, for one reason."""
        for index, entry in list(self.left.items()):
            self.record(index, InstanceOutcome.unanswered(entry[0], error))


def work_on(task: Task, job_id: str, start: int, stop: int, work: Callable[[Part], bool]) -> bool:
    """Work on a part; true if something is left that should be tried again later.

    A part for which the peer, or the budget, has no association now goes back on the queue: that is no try.
    A part whose peer is down just ends, and so does a cancelled one: what it has not begun has no outcome, so the probe
    or ``retry`` takes it up. Any other error fails what is left of the part; the chord goes on.
    """
    try:
        if _has_ended(task, job_id):
            return False
        try:
            with claimed(task, ledger(), job_id, f"{start}-{stop}") as claim, Recorder(ledger(), job_id) as recorder:
                part = Part(task, recorder, claim, start, stop)
                if not part.left or ledger().cancel_requested(job_id):
                    return False
                return _guarded(part, work)
        except PeerBusyError as error:
            come_again(task, pause_of_part(task, job_id), exc=error.public())
    except JobNotFoundError:
        return False  # Its record has expired, and with it everybody's interest.
    except BROKER_AWAY as error:
        go_back(error)
    except WorkerStoppingError:
        come_again(task, 0)


def _has_ended(task: Task, job_id: str) -> bool:
    """Whether a part comes too late; the one that ended the job may have died before Celery had its summary."""
    state = ledger().progress(job_id).state
    if state is JobState.DONE:
        _store_summary(task, job_id)
    return state.finished


def _store_summary(task: Task, job_id: str) -> dict[str, Any]:
    """Let Celery's result of a job be the summary of its last attempt, which this gives.

    Celery keeps the first success of an id for good, and the end of an earlier attempt may come late: when the job was
    retried at once.
    """
    summary = result_of(job_id)
    told = task.backend.get_task_meta(job_id, cache=False)
    if told["status"] == SUCCESS and told["result"] != summary:
        task.backend.forget(job_id)
    task.backend.store_result(job_id, summary, SUCCESS)
    return summary


def _guarded(part: Part, work: Callable[[Part], bool]) -> bool:
    again = False
    try:
        again = _worked(part, work)
    except (PartCancelledError, PartParkedError, JobCancelledError):
        pass
    finally:
        with suppress(PartCancelledError):
            part.flush()
    return again


def _worked(part: Part, work: Callable[[Part], bool]) -> bool:
    try:
        return work(part)
    except PeerBusyError as error:
        ended = given_up(part.job_id, error)
        if ended is None:
            raise
        ledger().failed(part.job_id, ended.error, ended.attempt)
    except (AssociationError, *BROKER_AWAY, JobCancelledError, JobNotFoundError):
        raise
    except (PartCancelledError, PartParkedError, WorkerStoppingError, Retry):
        raise
    except PacsTasksError as error:
        part.fail_rest(error)
    except Exception as error:  # noqa: BLE001 - a part that raises loses its chord
        part.fail_rest(unexpected(error))
    return False
