"""The record of a job in Redis: request, manifest, counters, one outcome per file or instance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, cast

from pacs_tasks.errors import (
    InvalidRequestError,
    JobCancelledError,
    JobNotFoundError,
    JobNotReadyError,
    PacsTasksError,
)
from pacs_tasks.ledger.claims import Claims, Standstills
from pacs_tasks.ledger.ends import END_FIELDS, KEPT, MOVED, Callers, End, counted, end_of, member_of
from pacs_tasks.ledger.keys import (
    BEFORE_SERIES_SHORT,
    BEFORE_SERIES_WHOLE,
    CALLERS,
    COUNTED,
    JOBS,
    PARTS,
    PROGRESS_FIELDS,
    SEALED_KEY,
    Bitmap,
    JobView,
    Scripts,
    checked_job_key,
    chunks,
    decode_whole,
    dump_error,
    dump_request,
    encode_short,
    encode_whole,
    job_key,
    load_request,
    not_found,
    progress_of,
    read_views,
    seal_short,
    touch,
)
from pacs_tasks.ledger.seals import Seals
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import (
    Category,
    InstanceCategory,
    InstanceOutcome,
    JobState,
    Outcome,
    Progress,
    TransferOutcome,
)
from pacs_tasks.request import AnyRequest, JobRequest, R

if TYPE_CHECKING:
    import redis

    from pacs_tasks.ledger.manifest import Manifest, Studies

#: Seconds for which a planner's message that comes once more is awaited.
_FANNED_OUT = 300
_CHUNK = 1_000
_RETRIED = (InstanceCategory.FAILED, InstanceCategory.MISSING)
_NO_PROBLEM = (InstanceCategory.SUCCESS, InstanceCategory.PRESENT)


class Recorded(NamedTuple):
    """The reply to an outcome: whether it is new, and whether its job was cancelled or has ended."""

    new: bool
    cancelled: bool
    ended: bool


class Ledger:
    """All jobs of one Redis.

    Its methods raise :class:`JobNotFoundError` if a user asks for a job that does not exist.

    Parameters
    ----------
    client
        From :func:`pacs_tasks.connection.connect`.
    keep_jobs
        Seconds to keep a job after its last change.
    """

    def __init__(self, client: redis.Redis, keep_jobs: int = 7 * 86_400) -> None:
        self.client, self.keep = client, keep_jobs
        self._run = Scripts(client).run
        self.seals = Seals(client)
        self.callers = Callers(client, self.seals)
        self.claims = Claims(client, keep_jobs)
        self.standstills = Standstills(client, keep_jobs)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifests of all jobs."""
        from pacs_tasks.ledger.manifest import Manifest

        return Manifest(self.client, self.keep, self.seals)

    @cached_property
    def studies(self) -> Studies:
        """The studies of all jobs."""
        from pacs_tasks.ledger.manifest import Studies

        return Studies(self.client, self.keep, self.seals)

    def open(self, job_id: str, task: str, request: AnyRequest | None, follows: str = "", requester: str = "") -> bool:
        """Begin the record of a job; false if it exists.

        Parameters
        ----------
        request
            None if it could not be read.
        follows
            As for :class:`Callers`, if another service published the task.
        requester
            Who says to have requested it, for the audit trail.
        """
        sealed_key, sealer = self.seals.begin(job_id)
        names = ("request", "bulk", "follows", "requester")
        fields = zip(names, (*dump_request(request), follows, requester), strict=True)
        text, bulk, follows, requester = (sealer.seal(value, field) if value else "" for field, value in fields)
        keys = [job_key(job_id), JOBS, job_key(job_id, "bulk"), CALLERS]
        arguments = [job_id, task, text, bulk, self.keep, follows, sealed_key, requester]
        opened = bool(self._run("jobs/open", keys, arguments))
        self.touch(job_id)
        return opened

    def discard(self, job_id: str) -> None:
        """Forget a job that could not be enqueued."""
        self.client.delete(*(job_key(job_id, part) for part in ("", *PARTS)))
        self.client.zrem(JOBS, job_id)

    def request(self, job_id: str, *, bulk: bool = False) -> AnyRequest:
        """Read the request of a job, with its large field only if ``bulk`` is set.

        Raises
        ------
        InvalidRequestError
            If the request cannot be read.
        """
        fields = ["task", "request", SEALED_KEY]
        task, text, sealed_key = cast("list[str | None]", self.client.hmget(checked_job_key(job_id), fields))
        if task is None or text is None:
            raise not_found(job_id)
        sealer = self.seals.read(job_id, sealed_key)
        if not text:
            raise InvalidRequestError(
                "The request of this job was not valid when it was enqueued. Correct it and enqueue it again."
            )
        operation = OPERATIONS.get(task)
        has_bulk = bulk and operation is not None and operation.request.bulk
        large = cast("str | None", self.client.get(job_key(job_id, "bulk"))) if has_bulk else None
        large = large and sealer.unseal(large, "bulk")
        return load_request(job_id, task, sealer.unseal(text, "request"), large)

    def requester(self, job_id: str) -> str:
        """Read who requested a job, as the client said: nothing proves it."""
        said = cast("str | None", self.client.hget(job_key(job_id), "requester"))
        return f"{self.seals.of(job_id).unseal(said, 'requester')} (not proven)" if said else ""

    def complete(self, request: R) -> R:
        """Complete a request about another job: it goes to the remote of that job unless it names one."""
        return request.about(self.request(request.job_id)) if isinstance(request, JobRequest) else request

    def start(self, job_id: str, worker: str, about: str = "") -> JobState:
        """Start a queued job; return the state of the job.

        Parameters
        ----------
        about
            Its operation, direction and remote, with tabs between them; :meth:`measure` counts by it.
        """
        return JobState(self._run("jobs/start", [job_key(job_id), job_key(job_id, "claims")], [worker, about]))

    def measure(self) -> dict[str, int]:
        """Read what all jobs have done, those that run included: numbers by what they are about, a tab, and their name.

        Each instance counts once, whatever happens to workers, and no number decreases.
        """
        found: dict[str, int] = {}
        reply = iter(self._run("jobs/measure", [JOBS]))
        for field, number in zip(reply, reply, strict=True):
            found[field] = found.get(field, 0) + int(number)
        return found

    def record_round_trip(self, job_id: str, seconds: float) -> None:
        """Record the round trip to the remote. Later values are ignored: the parts of a job are cut by the first."""
        self.client.hsetnx(job_key(job_id), "round_trip", f"{seconds:.4f}")

    def round_trip(self, job_id: str) -> float:
        """Read the round trip to the remote in seconds; 0 if it is not known."""
        return float(cast("str | None", self.client.hget(job_key(job_id), "round_trip")) or 0)

    def record_fan_out(self, job_id: str) -> None:
        """Record that the parts of a job are published although the message of its planner comes once more."""
        self.client.set(job_key(job_id, "fanned"), 1, ex=_FANNED_OUT)

    def is_fanned_out(self, job_id: str) -> bool:
        """Return whether :meth:`record_fan_out` recorded that, once."""
        return bool(self.client.delete(job_key(job_id, "fanned")))

    def recorded(self, job_id: str, start: int, stop: int) -> set[int]:
        """Read the indices from ``start`` up to, not including, ``stop`` that have an outcome."""
        return Bitmap(self.client, job_key(job_id, "recorded"), start, stop).indices()

    def counts(self, job_id: str, lines: range) -> Counter[str]:
        """Count the outcomes of a range of lines by category."""
        recorded = self.recorded(job_id, lines.start, lines.stop)
        present = Bitmap(self.client, job_key(job_id, "present"), lines.start, lines.stop).indices() & recorded
        texts = cast("list[str | None]", self.client.hmget(job_key(job_id, "problems"), [str(each) for each in lines]))
        found = Counter[str](json.loads(text)["category"] for text in texts if text)
        found["present"] += len(present)
        found["success"] += len(recorded) - found.total()
        return found

    def record(self, job_id: str, index: int, outcome: InstanceOutcome) -> Recorded:
        """Record an outcome; a second outcome for the same index changes nothing."""
        keys, arguments = self.record_command(job_id, index, outcome)
        return self.read_recorded(job_id, self._run("jobs/record", keys, arguments))

    def record_command(self, job_id: str, index: int, outcome: InstanceOutcome) -> tuple[list[str], list[str | int]]:
        """Give the keys and arguments of the script ``record``."""
        parts = ("", "claims", "recorded", "receipts", "problems", "series", "present")
        sealer = self.seals.of(job_id)
        text, before_series = encode_short(index, outcome), BEFORE_SERIES_SHORT
        short = text is not None
        if text is None:
            text, before_series = encode_whole(sealer, index, outcome), BEFORE_SERIES_WHOLE
        else:
            text = seal_short(sealer, index, text)
        size = outcome.size if outcome.category in MOVED else 0
        unreachable = not short and outcome.unreachable
        series = f"{outcome.study_uid}\\{outcome.series_uid}" if outcome.study_uid or outcome.series_uid else ""
        series = series and sealer.name(series, "series")
        arguments: list[str | int] = [index, text, outcome.category.value, size, int(unreachable), int(short)]
        converted = int(bool(outcome.sent_as) and outcome.category in MOVED)
        return [job_key(job_id, part) for part in parts], [*arguments, self.keep, series, before_series, converted]

    def read_recorded(self, job_id: str, reply: Sequence[int]) -> Recorded:
        """Read the reply to the script ``record``."""
        new, cancelled, ended = reply
        if ended:
            self.touch(job_id)
        return Recorded(bool(new), bool(cancelled), bool(ended))

    def cancel_requested(self, job_id: str) -> bool:
        return self.client.hget(job_key(job_id), "cancel") == "1"

    def settle(self, job_id: str) -> bool:
        """End the job if nothing is left to do; true if this call ended it."""
        return bool(self._run("jobs/settle", [job_key(job_id), job_key(job_id, "claims")]))

    def finish(self, job_id: str, outcome: Outcome) -> None:
        """End a job that has one outcome rather than one per instance."""
        state = JobState.CANCELLED if outcome.category is Category.CANCELLED else JobState.DONE
        text = outcome.model_dump_json(exclude_defaults=True)
        fields = {f"measured_{name}": str(value) for name, value in counted(outcome).items()}
        self._end(job_id, state, {"outcome": self.seals.of(job_id).seal(text, "outcome"), **fields})

    def fail(self, job_id: str, error: PacsTasksError, attempt: int = 0) -> None:
        """End a job with an error.

        A cancelled task may report late, when its job has already ended and was perhaps reopened: it ends only a
        cancelled job. Where another error may come late, ``attempt`` names the attempt that it ends.
        """
        fields = dump_error(error, self.seals.of(job_id))
        cancelled = isinstance(error, JobCancelledError)
        state = JobState.CANCELLED if cancelled else JobState.FAILED
        self._end(job_id, state, fields, only_cancelled=cancelled, attempt=attempt)

    def note_busy(self, job_id: str, reason: str) -> None:
        """Record why a job waits for a remote that refuses its association for now."""
        self._note(job_id, "waiting_reason", reason)

    def note_pace(self, job_id: str, pace: str) -> None:
        """Record the pace to which a job keeps."""
        self._note(job_id, "pace", pace)

    def cancel(self, job_id: str) -> JobState:
        """Request that the job be cancelled; it is once no worker works on it any more."""
        state = self._run("jobs/cancel", [checked_job_key(job_id), job_key(job_id, "claims")])
        if state is None:
            raise not_found(job_id)
        return JobState(state)

    def reopen(self, job_id: str, requester: str = "", *, failed_too: bool = True) -> int:
        """Queue a finished job again, for the lines that were not begun or failed; return how many failed.

        Parameters
        ----------
        requester
            Who requested it this time, as far as that is known.

        Raises
        ------
        InvalidRequestError
            If the job is still running, or has nothing left to do.
        """
        progress = self.progress(job_id)
        if not progress.state.finished:
            raise InvalidRequestError(f"Job {job_id} is still {progress.state}. Wait for its end or cancel it first.")
        failed = [index for index, outcome in self.problems(job_id) if failed_too and outcome.category in _RETRIED]
        complete = progress.state is JobState.DONE and progress.counters.recorded == progress.counters.total
        if complete and not failed and OPERATIONS[progress.task].outcome is TransferOutcome:
            raise _nothing_left(job_id, failed_too=failed_too)
        self._drop(job_id, failed)
        self.client.delete(job_key(job_id, "losses"))
        if not self._run("jobs/reopen", [job_key(job_id)], COUNTED):
            raise InvalidRequestError(f"Somebody else reopened job {job_id} just now. Wait for its end.")
        if requester:
            self.client.hset(job_key(job_id), "requester", self.seals.of(job_id).seal(requester, "requester"))
        return len(failed)

    def progress(self, job_id: str) -> Progress:
        """Read the progress of a job, with one command."""
        values = cast("list[str | None]", self.client.hmget(checked_job_key(job_id), list(PROGRESS_FIELDS)))
        fields = dict(zip(PROGRESS_FIELDS, values, strict=True))
        return progress_of(job_id, fields, self.seals.read(job_id, fields[SEALED_KEY]))

    def queued_again(self, job_id: str) -> float:
        """Read when a job last went back to its queue, in Unix seconds; 0 if it never did.

        It does so for a retry, when its remote is back, and when the hours of its remote begin.
        """
        return float(cast("str | None", self.client.hget(job_key(job_id), "queued")) or 0)

    def states(self, job_ids: Collection[str]) -> dict[str, JobView]:
        """Read the states of many jobs, a thousand with each command; errors as of :func:`read_views`."""
        found: dict[str, JobView] = {}
        for chunk in chunks(job_ids):
            found |= read_views(chunk, self._run("jobs/states", [job_key(each) for each in chunk]))
        return found

    def jobs(self, limit: int) -> list[Progress]:
        """Read the progress of the newest jobs, the newest first."""
        return list(islice(self.newest(), limit))

    def newest(self, before: str = "") -> Iterator[Progress]:
        """Read the progress of each job, the newest first, from the one that is older than ``before`` on.

        Raises
        ------
        JobNotFoundError
            If no job has the id ``before``.
        """
        start = 0
        if before:
            rank = self.client.zrevrank(JOBS, before)
            if rank is None:
                raise not_found(before)
            start = cast(int, rank) + 1
        while ids := cast("list[str]", self.client.zrevrange(JOBS, start, start + _CHUNK - 1)):
            for job_id in ids:
                try:
                    yield self.progress(job_id)
                except JobNotFoundError:
                    start -= self.client.zrem(JOBS, job_id)
                except PacsTasksError:
                    raise
                except Exception:  # noqa: BLE001, S112 - whatever else was written there must not hide the others
                    continue
            start += len(ids)

    def public_error(self, job_id: str) -> str:
        """Read the error of a job without its subject and without what the remote said; empty if it has none."""
        return cast("str | None", self.client.hget(job_key(job_id), "error")) or ""

    def problems(self, job_id: str, most: int | None = None) -> list[tuple[int, InstanceOutcome]]:
        """Read the outcomes that have no receipt, in the order of the manifest; at most so many."""
        scan = self.client.hscan_iter(job_key(job_id, "problems"), count=_CHUNK)
        # A scan may return a field twice.
        found = {int(index): text for index, text in islice(scan, most)}
        known = self.series(job_id) if found else {}
        sealer = self.seals.of(job_id)
        return [(index, decode_whole(found[index], index, known, sealer)) for index in sorted(found)]

    def series(self, job_id: str) -> dict[int, tuple[str, str]]:
        """Read study and series of the outcomes, by the number that stands for them."""
        pairs = cast("dict[str, str]", self.client.hgetall(job_key(job_id, "series")))
        sealer = self.seals.of(job_id)
        named = ((sealer.unname(pair, "series"), number) for pair, number in pairs.items())
        return {int(number): (pair.partition("\\")[0], pair.partition("\\")[2]) for pair, number in named}

    def outcome(self, job_id: str) -> Outcome:
        """Read the outcome of a job.

        Raises
        ------
        JobNotReadyError
            If the job has not finished.
        PacsTasksError
            The recorded error of a job that ended without an outcome.
        """
        progress, outcome = self.end(job_id)
        if outcome is None:
            raise JobNotReadyError(f"Job {job_id} is still {progress.state}. Wait for its end.")
        if isinstance(outcome, PacsTasksError):
            raise outcome
        return outcome

    def end(self, job_id: str) -> End:
        """Read the progress of a job and what it ended with, in one step. An error that is raised is not the job's."""
        values = cast("list[str | None]", self.client.hmget(checked_job_key(job_id), list(END_FIELDS)))
        fields = dict(zip(END_FIELDS, values, strict=True))
        found = end_of(job_id, fields, self.seals.read(job_id, fields[SEALED_KEY]))
        if fields["outcome"] is not None or not isinstance(found.outcome, TransferOutcome):
            return found
        problems = tuple(outcome for _, outcome in self.problems(job_id) if outcome.category not in _NO_PROBLEM)
        more = {"problems": problems, "studies": self.studies.outcomes(job_id)}
        return found._replace(outcome=found.outcome.model_copy(update=more))

    def kept_end(self, job_id: str, attempt: int) -> End | None:
        """Read the end of an attempt as it was kept when the job was reopened, without problems; None if it was not."""
        kept = cast("dict[str, str]", self.client.hgetall(KEPT + member_of(job_id, attempt)))
        if not kept:
            return None
        return end_of(job_id, dict.fromkeys(END_FIELDS) | kept, self.seals.read(job_id, kept.get(SEALED_KEY)))

    def touch(self, job_id: str) -> None:
        """Keep a job for its full time from now."""
        touch(self.client, job_id, self.keep)

    def _note(self, job_id: str, field: str, text: str) -> None:
        if self.client.exists(job_key(job_id)):
            self.client.hset(job_key(job_id), field, text)

    def _drop(self, job_id: str, indices: Sequence[int]) -> None:
        """Drop the outcomes of these lines, so that they are done again."""
        keys = [job_key(job_id, part) for part in ("", "recorded", "problems", "attempts", "matches")]
        for start in range(0, len(indices), _CHUNK):
            self._run("jobs/drop", keys, indices[start : start + _CHUNK])

    def _end(
        self, job_id: str, state: JobState, fields: dict[str, str], *, only_cancelled: bool = False, attempt: int = 0
    ) -> None:
        arguments = [state.value, int(only_cancelled), attempt, *(part for pair in fields.items() for part in pair)]
        self._run("jobs/end", [job_key(job_id)], arguments)
        self.touch(job_id)


def _nothing_left(job_id: str, *, failed_too: bool) -> InvalidRequestError:
    """Make the error for a job that is complete and cannot be reopened."""
    if failed_too:
        return InvalidRequestError(
            f"Job {job_id} has nothing to retry: nothing in it failed. Enqueue a new job to do it again."
        )
    return InvalidRequestError(
        f"Job {job_id} has nothing to resume: everything in it has an outcome. Retry it to repeat what failed."
    )
