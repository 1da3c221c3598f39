"""The task of a job: it accepts the request, claims the job, and records its outcome or its error.

A job has one answer (:func:`answer`), or one outcome per file, query or instance::

    plan      writes the manifest, replaces itself with
    └ chord   header = parts, each a range of the manifest; body = finish, which takes over the planner's id,
              so that ``AsyncResult(job_id).get()`` of any Celery caller yields the summary

Parts never raise for a single line and have no result; ``finish`` reads the ledger alone. Whichever part records the
last outcome ends the job too, so a body that Redis loses or runs twice changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, cast

from celery import Task, chord
from celery.exceptions import Ignore, Reject, Retry
from kombu.utils.json import dumps, loads

from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import (
    InvalidRequestError,
    JobCancelledError,
    JobFailedError,
    MessageError,
    MissingKeyError,
    PacsTasksError,
    PeerBusyError,
    PlainRecordError,
    SealingError,
)
from pacs_tasks.fleet.audits import Audits
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.journal import tracing
from pacs_tasks.journal.audit import RESTRICTED_FUNCTION, Party
from pacs_tasks.journal.logs import add_to_work
from pacs_tasks.ledger.manifest import Line, Study
from pacs_tasks.ledger.recorder import Recorder
from pacs_tasks.operations import DIRECTIONS, OPERATIONS, PART_PRIORITIES
from pacs_tasks.outcome import InstanceOutcome, Outcome
from pacs_tasks.request import MoveRequest, R, Request, RetrieveRequest, build
from pacs_tasks.sealing import SEALED, sealing_of, unsealed_request
from pacs_tasks.settings import settings
from pacs_tasks.tasks.audit import alert
from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.engine.associations import round_trip
from pacs_tasks.tasks.engine.base import (
    BROKER_AWAY,
    EndingTask,
    JobTask,
    PartParkedError,
    PartPausedError,
    come_again,
    come_again_in_time,
    end_of,
    give_up,
    go_back,
    hold,
    ledger,
    pause_of_job,
    register,
    store_end,
    summary_of,
    unexpected,
)
from pacs_tasks.tasks.engine.claim import Claim, claimed
from pacs_tasks.tasks.engine.leases import leases
from pacs_tasks.tasks.engine.part import L, Part, run_part
from pacs_tasks.tasks.engine.permissions import check_record, check_request, note_enqueuer

#: A part has so much work, in seconds, that the 5 ms of its task are a thirtieth of it; or it waits for so long. Many
#: parts wait at once, so that their tasks are most of what there is to do: 500 files over a line of 100 ms took 3.4 s
#: in 64 parts, and take 2.9 s in 32.
PART_WORK, PART_WAIT = 0.16, 1.6
#: Parts that a large job has at least, so that workers share it, and at most: jobs take turns by their parts.
FEWEST_PARTS, MOST_PARTS = 16, 64
#: Seconds that a remote takes for a response, beside which the round trip of the line does not count.
_SLOW = 0.02
#: How often lost parts are planned again without any outcome in between before they fail.
_MOST_REPLANS = 3
#: Seconds after which ``finish`` comes again while parts are at work.
_FINISH_LATER = 5
#: The fields of a message about what follows its task.
_FOLLOWING = ("callbacks", "errbacks", "chain", "chord", "group", "group_index", "root_id", "parent_id")

#: Start and end of a part in the manifest, as of a slice.
Range = tuple[int, int]


class Promise(NamedTuple):
    """What is to be sent, queried or fetched: the lines of :meth:`pacs_tasks.ledger.manifest.Manifest.plan`.

    Attributes
    ----------
    unfound
        For each line of the tail, its index and why there is nothing to fetch for it.
    """

    lines: Sequence[Line]
    studies: Sequence[Study] = ()
    unfound: Sequence[tuple[int, PacsTasksError]] = ()


class RecordedError(Exception):
    """A job has ended with ``error``, which is recorded; a busy remote in it is no reason to come again."""

    def __init__(self, error: PacsTasksError) -> None:
        super().__init__(error.message)
        self.error = error


def answer(
    task: Task, payload: Mapping[str, Any] | None, request_type: type[R], work: Callable[[R, Claim], Outcome]
) -> dict[str, Any]:
    """Serve a job that has one answer."""
    with errors_recorded(task):
        request = _accepted(task, payload, request_type)
        if request is None:
            return conclude(task.request.id)
        with claimed(task, ledger(), task.request.id, "job") as claim:
            claim.check_deaths()
            outcome = work(request, claim)
            ledger().finish(task.request.id, outcome)
    return summary_of(task.request.id, outcome)


def plan(
    task: Task,
    payload: Mapping[str, Any] | None,
    request_type: type[R],
    promise: Callable[[R, Claim], Promise],
    parts: Callable[[str], None],
    *,
    promise_again: Callable[[R, Claim], Promise | None] = lambda _, __: None,
) -> dict[str, Any]:
    """Serve the planner of a job.

    Parameters
    ----------
    promise
        Called once in the life of a job; gives its manifest.
    promise_again
        Called when the job is taken up again; gives what replaces the tail of the manifest, or nothing.
    parts
        Called with the job's id; does what has no outcome yet, here or by replacing the task by a chord.
    """
    job_id = task.request.id
    with errors_recorded(task):
        request = _accepted(task, payload, request_type)
        if request is None:
            return conclude(job_id)
        if task.request.eta and ledger().is_fanned_out(job_id):
            raise Ignore
        with claimed(task, ledger(), job_id, "plan") as claim:
            claim.check_deaths()
            manifest = ledger().manifest
            write, promised = (
                (manifest.replace_tail, promise_again(request, claim))
                if manifest.planned(job_id)
                else (manifest.plan, promise(request, claim))
            )
            if promised is not None:
                write(job_id, promised.lines, claim.owner, promised.studies, len(promised.unfound))
                _record_unfound(task, promised)
        if not ledger().progress(job_id).state.finished:
            parts(job_id)
        return conclude(job_id)


def _record_unfound(task: Task, promised: Promise) -> None:
    """Record the tail of the manifest: there is nothing to fetch for it."""
    tail = promised.lines[len(promised.lines) - len(promised.unfound) :]
    for line, (index, error) in zip(tail, promised.unfound, strict=True):
        outcome = InstanceOutcome.unanswered(line.subject, error).model_copy(update={"worker": task.request.hostname})
        ledger().record(task.request.id, index, outcome)


def note_round_trip(request: Request, contexts: Sequence[Context], claim: Claim) -> None:
    """Open an association, so that one planner reports a remote that refuses it and not thousands of parts.

    A remote that is busy is no reason to stop: the parts wait for it.
    """
    with suppress(PeerBusyError):
        measured = round_trip(request, claim.job_id, contexts, claim)
        # A gateway may end the connection near us, and the remote itself may be slow.
        slow = max(leases().response_time(request.remote), background.distance(name_of(request.remote)) / 2)
        ledger().record_round_trip(claim.job_id, slow if slow >= _SLOW else measured)


def parts_of_a_job(work: float, wait: float) -> int:
    """How many parts a large job has: each is about :data:`PART_WORK` seconds of work, or :data:`PART_WAIT` of waiting.

    Parameters
    ----------
    work
        Seconds of work on all lines, one after the other.
    wait
        Seconds for which all lines wait for the remote, one after the other.
    """
    # By twos, so that two, four or eight associations end together.
    waiting = 1 << math.ceil(math.log2(max(wait / PART_WAIT, 1)))
    return min(max(math.ceil(work / PART_WORK), waiting, FEWEST_PARTS), MOST_PARTS)


def _fan_out(task: Task, job_id: str, ranges: Sequence[Range], part: Task, finish: Task) -> None:
    """Replace a planner by the chord of its parts; of those that have a line without an outcome."""
    # The message of a part has the job's id and the range, nothing private.
    priority = PART_PRIORITIES[ledger().request(job_id).priority]
    recorded = ledger().recorded(job_id, 0, max((stop for _, stop in ranges), default=0))
    pending = [(start, stop) for start, stop in ranges if any(index not in recorded for index in range(start, stop))]
    ledger().claims.forget_tries(job_id, [f"{start}-{stop}" for start, stop in pending])
    header = [part.si(job_id, start, stop).set(priority=priority) for start, stop in pending]
    if not background.current().keep():
        # The ticket of this planner has nothing to do.
        ledger().record_fan_out(job_id)
    # After the parts: where messages come twice, it would find parts that nobody has begun.
    body = finish.si(job_id, ledger().progress(job_id).attempt).set(priority=priority)
    if carried := tracing.carried(settings().traces):
        # The last part publishes it after its own span.
        body.set(headers=dict(carried))
    task.replace(chord(header, body=body))


def register_chord(
    request_type: type[R],
    prefix: str,
    promise: Callable[[R, Claim], Promise],
    parts: Callable[[str], list[Range]],
    work: Callable[[Part[L], R], bool],
    *,
    promise_again: Callable[[R, Claim], Promise | None] = lambda _, __: None,
) -> None:
    """Register the three tasks of a job with many outcomes: its planner, ``<prefix>_part`` and ``<prefix>_finish``.

    Parameters
    ----------
    promise, promise_again
        As for :func:`plan`.
    parts
        Called with the job's id; gives its parts, the same each time.
    work
        Works on a part; true if something should be tried again later.
    """

    def fan_out(task: Task, job_id: str) -> None:
        _fan_out(task, job_id, parts(job_id), part, finish)

    @register(request_type.task, base=JobTask)
    def planner(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
        return plan(self, request, request_type, promise, partial(fan_out, self), promise_again=promise_again)

    @register(f"{prefix}_part", ignore_result=True)
    def part(self: Task, job_id: str, start: int, stop: int, tries: int = 0) -> str:
        return run_part(self, job_id, range(start, stop), tries, work)

    @register(f"{prefix}_finish", base=EndingTask)
    def finish(self: Task, job_id: str, attempt: int = 0) -> dict[str, Any]:
        # It waits for no remote.
        background.current().keep()
        try:
            return finished(self, job_id, attempt, partial(fan_out, self, job_id))
        except (MissingKeyError, PlainRecordError) as error:
            hold(self, job_id, error)


def finished(task: Task, job_id: str, attempt: int, fan_out: Callable[[], None]) -> dict[str, Any]:
    """Serve the body of a chord: return the job's summary, or plan lost parts again for what is left.

    The body of an earlier ``attempt`` (0 if it is not known) may come after the job was retried. The planner of the
    next one has not yet queried the remote again for what was not found, which is not lost.
    """
    ledger().settle(job_id)
    progress = ledger().progress(job_id)
    if not progress.state.finished:
        if attempt not in {0, progress.attempt}:
            raise Ignore
        if progress.waiting_for:
            raise Ignore  # The probe enqueues the planner again when the remote is back.
        if ledger().claims.count(job_id):
            come_again(task, _FINISH_LATER)
        if ledger().claims.count_replan(job_id) <= _MOST_REPLANS:
            fan_out()
        with (
            claimed(task, ledger(), job_id, "finish") as claim,
            Recorder(ledger(), job_id) as recorder,
            suppress(JobCancelledError),
        ):
            rest: Part[Line] = Part(task, recorder, claim, range(progress.counters.total))
            rest.fail_rest(_lost())
            rest.flush()
    end = store_end(task, job_id)
    if isinstance(end, PacsTasksError):
        raise end
    return end


def _lost() -> JobFailedError:
    return JobFailedError(
        f"Workers received this {_MOST_REPLANS + 1} times and reported nothing. "
        "Check the workers' logs, then retry the job."
    )


def _accepted(task: Task, payload: Mapping[str, Any] | None, request_type: type[R]) -> R | None:
    """Open the record of a job and start it; its request, or nothing if it has ended before.

    It may have ended because it was cancelled, or because Redis delivered its message twice.

    Raises
    ------
    InvalidRequestError
        If the request is not valid; nothing was opened.
    """
    job_id = task.request.id
    opened = False
    request: Any
    if payload is not None:
        try:
            request = ledger().complete(build(request_type, _in_clear(task, payload)))
        except MissingKeyError:
            raise
        except PacsTasksError:
            ledger().open(job_id, task.name, None)
            raise
        origin = str(task.request.origin or "")
        opened = ledger().open(job_id, task.name, request, _what_follows(task), origin)
        note_enqueuer(task, request, opened=opened)
    else:
        request = ledger().request(job_id, bulk=True)
        check_record(job_id, request, bulk=True)
    if not opened:
        _restore(task, ledger().callers.follows(job_id))
    if ledger().start(job_id, task.request.hostname, _about(request)).finished:
        return None
    add_to_work(remote=name_of(request.remote))
    if settings().audit:
        # Also of what this worker may not serve.
        Audits(ledger().client).expect(job_id)
    check_request(request)
    return cast(R, request)


def _about(request: Request) -> str:
    """What the job is about for those who watch the fleet: its operation, direction and remote."""
    operation = OPERATIONS[request.task]
    forwards = isinstance(request, MoveRequest) or (isinstance(request, RetrieveRequest) and request.to is not None)
    direction = "forwarded" if forwards else operation.done
    return "\t".join((operation.command, direction if direction in DIRECTIONS else "", name_of(request.remote)))


def _in_clear(task: Task, payload: object) -> Mapping[str, Any]:
    """Decrypt the request of another service, from :func:`pacs_tasks.sealing.sealed_request`.

    Raises
    ------
    InvalidRequestError
        If it is no object, or is not encrypted and must be.
    """
    if not isinstance(payload, Mapping):
        raise InvalidRequestError("The request is not a JSON object. docs/reference/tasks lists its fields.")
    sealing = sealing_of(ledger().client)
    if set(payload) == {SEALED}:
        return unsealed_request(sealing, payload, task.name, task.request.id)
    if sealing.refuses_plain:
        raise InvalidRequestError(
            "This fleet accepts encrypted requests only. Send what pacs_tasks.sealing.sealed_request returns, or set "
            "PACS_TASKS_ACCEPT_PLAIN=true on the workers."
        )
    return payload


def _what_follows(task: Task) -> str:
    """Write what follows the running task: callbacks, the rest of a chain, a group, a chord."""
    following = {name: getattr(task.request, name) for name in _FOLLOWING}
    # Celery's JSON, since times and UUIDs may be among the arguments.
    return cast(str, dumps(following))


def _restore(task: Task, follows: str | None) -> None:
    """Let that follow the running task; nothing follows if ``follows`` is None, since it was called already.

    Celery carries it from message to message while a task is retried or replaced. A message of ours has none of it, and
    a message that Redis delivers twice still has it after Celery has called it.
    """
    known = loads(follows) if follows else {}
    task.request.update({name: known.get(name) for name in _FOLLOWING})


def conclude(job_id: str) -> dict[str, Any]:
    """Give the summary of a job that has ended, or raise :class:`RecordedError` if it ended with an error."""
    end = end_of(job_id)
    if isinstance(end, PacsTasksError):
        raise RecordedError(end)
    return end


@contextmanager
def errors_recorded(task: Task) -> Iterator[None]:
    """Record in the ledger the error that ends a job, and pass it on to Celery without private data.

    A job for which there is no association now comes again, which does not count as a try. A plain Celery caller gets
    the same class of error from ``AsyncResult.get()``.
    """
    try:
        try:
            yield
        except PeerBusyError as error:
            ended = give_up(task.request.id, error)
            if ended is None:
                ledger().note_busy(task.request.id, error.message)
                come_again(task, pause_of_job(task), exc=error.public())
            raise RecordedError(ended) from None
    except (Ignore, Retry, Reject):
        raise
    except PartParkedError:
        raise Ignore from None
    except PartPausedError as paused:
        come_again_in_time(task, task.request.id, paused)
    except RecordedError as recorded:
        raise recorded.error.public() from None
    except BROKER_AWAY as error:
        go_back(error)
    except MissingKeyError as error:
        hold(task, task.request.id, error)
    except PacsTasksError as error:
        if isinstance(error, SealingError | MessageError):
            alert(RESTRICTED_FUNCTION, Party(str(task.request.origin or "unknown")), error.message)
        ledger().fail(task.request.id, error)
        raise error.public() from None
    except Exception as error:  # noqa: BLE001 - a defect must end the job, or it would run for ever
        failure = unexpected(error)
        ledger().fail(task.request.id, failure)
        raise failure from None
