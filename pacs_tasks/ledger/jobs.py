"""The record of a job in Redis: request, manifest, counters, one outcome per file or instance.

The ledger is the truth, Celery's chord is the vehicle: whatever is lost or done twice on the way, an outcome is
counted once and a job ends once. Each method is one step inside Redis (see :mod:`pacs_tasks.ledger.scripts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import redis

from pacs_tasks.errors import (
    InvalidRequestError,
    JobCancelledError,
    JobNotFoundError,
    JobNotReadyError,
    PacsTasksError,
    from_record,
)
from pacs_tasks.ledger import encoding as receipts
from pacs_tasks.ledger import scripts
from pacs_tasks.ledger.claims import Claims
from pacs_tasks.ledger.keys import JOBS, PARTS, SEEN, asked, key, not_found, progress_of, request_of, texts_of, touch
from pacs_tasks.ledger.manifest import Manifest
from pacs_tasks.ledger.matches import Matches
from pacs_tasks.ledger.stalled import Unfinished
from pacs_tasks.ledger.studies import Studies
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import Category, InstanceCategory, InstanceOutcome, Outcome, TransferOutcome
from pacs_tasks.outcome.progress import JobState, Progress
from pacs_tasks.request import AnyRequest, JobRequest, R

_CHUNK = 1_000
#: A command that looks at more indices than this at once would keep the others of this Redis waiting.
_BITS = 10_000
_RETRIED = (InstanceCategory.FAILED, InstanceCategory.MISSING)
_NO_PROBLEM = (InstanceCategory.SUCCESS, InstanceCategory.PRESENT)


class Recorded(NamedTuple):
    """What recording an outcome told."""

    new: bool
    cancelled: bool
    ended: bool


class Ledger:
    """All jobs of one Redis.

    Parameters
    ----------
    client
        As :func:`connect` gives it.
    keep_jobs
        Seconds that a job is kept after its last change.
    """

    def __init__(self, client: redis.Redis, keep_jobs: int = 7 * 86_400) -> None:
        self._redis = client
        self._keep = keep_jobs
        self._run = scripts.Scripts(client).run
        #: Who is at what.
        self.claims = Claims(client, keep_jobs)
        #: What there is to do.
        self.manifest = Manifest(client, keep_jobs)
        #: Of what a retrieve brings.
        self.studies = Studies(client, keep_jobs)
        #: Which jobs are not at their end, and whether anything happens to them.
        self.unfinished = Unfinished(client, keep_jobs)
        #: What the rows of a query of many have found.
        self.matches = Matches(client, keep_jobs)

    @property
    def client(self) -> redis.Redis:
        """The connection, for what else is kept in that Redis."""
        return self._redis

    @property
    def keep(self) -> int:
        """Seconds that a job is kept after its last change."""
        return self._keep

    def open(self, job_id: str, task: str, request: AnyRequest | None) -> bool:
        """Begin the record of a job; false if it has one already. ``None``: the request could not be read."""
        text, bulk = texts_of(request)
        keys = [key(job_id), JOBS, key(job_id, "bulk")]
        opened = bool(self._run(scripts.OPEN, keys, [job_id, task, text, bulk, self._keep]))
        self.touch(job_id)
        return opened

    def discard(self, job_id: str) -> None:
        """Forget a job that could not be put on the queue."""
        self._redis.delete(*(key(job_id, part) for part in ("", *PARTS)))
        self._redis.zrem(JOBS, job_id)

    def request(self, job_id: str, *, bulk: bool = False) -> AnyRequest:
        """What the job asks; ``bulk`` with the field that may be large, which is empty otherwise.

        Raises
        ------
        JobNotFoundError
            If no job has this id.
        """
        task, text = cast("list[str | None]", self._redis.hmget(asked(job_id), ["task", "request"]))
        if task is None or text is None:
            raise not_found(job_id)
        if not text:
            raise InvalidRequestError("the request of this job could not be read when it was enqueued")
        kind = OPERATIONS.get(task)
        apart = self._redis.get(key(job_id, "bulk")) if bulk and kind is not None and kind.request.bulk else None
        return request_of(job_id, task, text, cast("str | None", apart))

    def completed(self, request: R) -> R:
        """The request as it is kept: one about another job calls whom that one called, unless it says otherwise.

        Raises
        ------
        JobNotFoundError
            If there is no such other job.
        """
        return request.about(self.request(request.job_id)) if isinstance(request, JobRequest) else request

    def start(self, job_id: str, worker: str) -> JobState:
        """A worker has taken the job up; its state now."""
        return JobState(self._run(scripts.START, [key(job_id), key(job_id, "claims")], [worker]))

    def note_round_trip(self, job_id: str, seconds: float) -> None:
        """Note how far away the job's peer is. The first word stands: the parts of a job are cut by it."""
        self._redis.hsetnx(key(job_id), "round_trip", f"{seconds:.4f}")

    def round_trip(self, job_id: str) -> float:
        """How far away the job's peer is, in seconds; 0 if nobody has noted it."""
        return float(cast("str | None", self._redis.hget(key(job_id), "round_trip")) or 0)

    def recorded(self, job_id: str, start: int, stop: int) -> set[int]:
        """The indices from ``start`` up to, not including, ``stop`` that have an outcome."""
        found: set[int] = set()
        for first in range(start, stop, _BITS):
            found.update(self._run(scripts.RECORDED, [key(job_id, "recorded")], [first, min(first + _BITS, stop)]))
        return found

    def record(self, job_id: str, index: int, outcome: InstanceOutcome) -> Recorded:
        """Record one outcome; the second one for the same index changes nothing."""
        keys, arguments = self.recording(job_id, index, outcome)
        return self.recorded_as(job_id, self._run(scripts.RECORD, keys, arguments))

    def recording(self, job_id: str, index: int, outcome: InstanceOutcome) -> tuple[list[str], list[str | int]]:
        """The keys and arguments of :data:`scripts.RECORD`."""
        done = outcome.category in {InstanceCategory.SUCCESS, InstanceCategory.WARNING}
        keys = [key(job_id), *(key(job_id, part) for part in ("claims", "recorded", "receipts", "problems", "series"))]
        keys.append(key(job_id, "present"))
        short = receipts.short(index, outcome)
        text = receipts.whole(outcome) if short is None else short
        series = f"{outcome.study_uid}\\{outcome.series_uid}" if outcome.study_uid or outcome.series_uid else ""
        before = receipts.BEFORE_SERIES_WHOLE if short is None else receipts.BEFORE_SERIES_SHORT
        size = outcome.size if done else 0
        unreachable = int(short is None and outcome.unreachable)
        about: list[str | int] = [index, text, outcome.category.value, size, unreachable, int(short is not None)]
        return keys, [*about, self._keep, series, before]

    def recorded_as(self, job_id: str, told: Sequence[int]) -> Recorded:
        """What :data:`scripts.RECORD` answered."""
        new, cancelled, ended = told
        if ended:
            self.touch(job_id)
        return Recorded(bool(new), bool(cancelled), bool(ended))

    def cancel_requested(self, job_id: str) -> bool:
        return self._redis.hget(key(job_id), "cancel") == "1"

    def settle(self, job_id: str) -> bool:
        """End the job if nothing is left to do; true if this call ended it."""
        return bool(self._run(scripts.SETTLE, [key(job_id), key(job_id, "claims")], []))

    def done(self, job_id: str, outcome: Outcome) -> None:
        """End a job that has one answer rather than one per instance."""
        state = JobState.CANCELLED if outcome.category is Category.CANCELLED else JobState.DONE
        self._end(job_id, state, {"outcome": outcome.model_dump_json(exclude_defaults=True)})

    def failed(self, job_id: str, error: PacsTasksError, attempt: int = 0) -> None:
        """End a job that has no answer.

        A task may say late that it was cancelled: the job has ended with its claim, and was maybe reopened. Any other
        error may come as late; where that can be, ``attempt`` is the one that it ends.
        """
        fields = {"error": error.message, "error_type": type(error).__name__, "error_subject": error.subject}
        cancelled = isinstance(error, JobCancelledError)
        state = JobState.CANCELLED if cancelled else JobState.FAILED
        self._end(job_id, state, fields, only_cancelled=cancelled, attempt=attempt)

    def cancel(self, job_id: str) -> JobState:
        """Ask the job to end; it is cancelled once no worker is at it any more.

        Raises
        ------
        JobNotFoundError
            If no job has this id.
        """
        state = self._run(scripts.CANCEL, [asked(job_id), key(job_id, "claims")], [])
        if state is None:
            raise not_found(job_id)
        return JobState(state)

    def reopen(self, job_id: str, *, failed_too: bool = True) -> int:
        """Make a finished job ready to go on with what was not begun, and with what failed; how many of the latter.

        Raises
        ------
        JobNotFoundError, InvalidRequestError
            If there is no such job, if it is still running, or if there is nothing left to do.
        """
        progress = self.progress(job_id)
        if not progress.state.finished:
            raise InvalidRequestError(f"job {job_id} is still {progress.state}; wait for its end or cancel it first")
        failed = [index for index, outcome in self.problems(job_id) if failed_too and outcome.category in _RETRIED]
        complete = progress.state is JobState.DONE and progress.counters.recorded == progress.counters.total
        if complete and not failed and OPERATIONS[progress.task].outcome is TransferOutcome:
            why = "retry: nothing in it failed" if failed_too else "resume: everything in it has an outcome"
            raise InvalidRequestError(f"job {job_id} has nothing to {why}")
        keys = [key(job_id), *(key(job_id, part) for part in ("recorded", "problems", "attempts", "matches"))]
        for start in range(0, len(failed), _CHUNK):
            self._run(scripts.DROP, keys, failed[start : start + _CHUNK])
        self._redis.delete(key(job_id, "losses"))
        if not self._run(scripts.REOPEN, [key(job_id), key(job_id, "claims")], []):
            raise InvalidRequestError(f"job {job_id} was reopened by someone else just now; wait for it")
        return len(failed)

    def progress(self, job_id: str) -> Progress:
        """A look at the job: one HMGET.

        Raises
        ------
        JobNotFoundError
            If no job has this id.
        """
        values = cast("list[str | None]", self._redis.hmget(asked(job_id), list(SEEN)))
        return progress_of(job_id, dict(zip(SEEN, values, strict=True)))

    def jobs(self, limit: int) -> list[Progress]:
        """The newest jobs first."""
        found = []
        for job_id in cast("list[str]", self._redis.zrevrange(JOBS, 0, limit - 1)):
            try:
                found.append(self.progress(job_id))
            except JobNotFoundError:
                self._redis.zrem(JOBS, job_id)
        return found

    def problems(self, job_id: str) -> list[tuple[int, InstanceOutcome]]:
        """What did not simply succeed, in the order of the manifest."""
        found = {  # A scan may show the same field twice.
            int(index): text for index, text in self._redis.hscan_iter(key(job_id, "problems"), count=_CHUNK)
        }
        known = self.series(job_id) if found else {}
        return [(index, receipts.read_whole(found[index], known)) for index in sorted(found)]

    def series(self, job_id: str) -> dict[int, tuple[str, str]]:
        """The studies and series of what was sent, by the number that the outcomes have of them."""
        pairs = cast("dict[str, str]", self._redis.hgetall(key(job_id, "series")))
        return {int(number): (pair.partition("\\")[0], pair.partition("\\")[2]) for pair, number in pairs.items()}

    def outcome(self, job_id: str) -> Outcome:
        """What the peer answered.

        Raises
        ------
        JobNotReadyError
            If the job has not finished.
        PacsTasksError
            The recorded error of a job that ended without an outcome.
        """
        progress = self.progress(job_id)
        if not progress.state.finished:
            raise JobNotReadyError(f"job {job_id} is still {progress.state}; wait for it")
        text = cast("str | None", self._redis.hget(key(job_id), "outcome"))
        if text is not None:
            return OPERATIONS[progress.task].outcome.model_validate_json(text)
        if progress.state is JobState.FAILED:
            raise self.error(job_id)
        if OPERATIONS[progress.task].outcome is not TransferOutcome:
            raise JobCancelledError(f"job {job_id} was cancelled before the peer had answered")
        return TransferOutcome(
            counters=progress.counters,
            seconds=progress.seconds,
            cancelled=progress.state is JobState.CANCELLED,
            problems=tuple(outcome for _, outcome in self.problems(job_id) if outcome.category not in _NO_PROBLEM),
            studies=self.studies.outcomes(job_id),
        )

    def error(self, job_id: str) -> PacsTasksError:
        """The recorded error of a job that failed."""
        names = ["error_type", "error", "error_subject"]
        kind, message, subject = cast("list[str | None]", self._redis.hmget(key(job_id), names))
        return from_record(kind or "", message or "", subject or "")

    def touch(self, job_id: str) -> None:
        """A job is kept for so long after its last change."""
        touch(self._redis, job_id, self._keep)

    def _end(
        self, job_id: str, state: JobState, fields: dict[str, str], *, only_cancelled: bool = False, attempt: int = 0
    ) -> None:
        arguments = [state.value, int(only_cancelled), attempt, *(part for pair in fields.items() for part in pair)]
        self._run(scripts.END, [key(job_id), key(job_id, "claims")], arguments)
        self.touch(job_id)
