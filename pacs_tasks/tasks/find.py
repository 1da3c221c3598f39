"""``pacs_tasks.find`` and ``pacs_tasks.find_batch``: one query, or many with an outcome each (C-FIND).

The rows of a batch are its manifest. Matches are patient data: they go to the ledger, never into a message or Celery's
result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from celery import Task

from pacs_tasks.dimse.find.c_find import FindOperation, contexts_of
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.manifest import RowLine
from pacs_tasks.ledger.outcomes import MatchRecorder
from pacs_tasks.outcome import Category, Doubt, FindOutcome, InstanceCategory, InstanceOutcome
from pacs_tasks.request import FindBatchRequest, FindRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import Loss, Session, new_association
from pacs_tasks.tasks.engine.base import JobTask, ledger, register
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import Promise, Range, answer, note_round_trip, parts_of_a_job, register_chord
from pacs_tasks.tasks.engine.lines import LineQueue, work_off
from pacs_tasks.tasks.engine.part import Part

#: Seconds that a row takes at least: the answer of a fast PACS, and the decoding of its matches.
ROW_WORK = 0.004
#: Outcomes of a query whose matches count. If the answer was cut off, the outcome of the row reports it.
_ANSWERED = frozenset({Category.SUCCESS, Category.WARNING, Category.PARTIAL})


def _find(request: FindRequest, claim: Claim) -> FindOutcome:
    started, recorder = time.monotonic(), MatchRecorder(ledger(), claim.job_id, 0)
    finding = FindOperation(request, settings().answer_limits(request.remote), recorder)
    answered = 0

    def lost(loss: Loss) -> None:
        """Some remotes end the association after each query: a query that is split goes on over the next one."""
        nonlocal answered
        if finding.queries == answered:
            raise loss.error
        answered = finding.queries

    with Session(lambda: new_association(request, claim.job_id, contexts_of(request), claim)) as session:
        while (outcome := session.attempt(finding.run, lost)) is None:
            pass
    recorder.close()
    return outcome.model_copy(update={"seconds": time.monotonic() - started})


@register(FindRequest.task, base=JobTask)
def find(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Query the remote."""
    return answer(self, request, FindRequest, _find)


def cut(total: int, round_trip: float) -> list[Range]:
    """Cut the rows of a batch into parts.

    Parameters
    ----------
    round_trip
        Seconds that a request and its response take at least.
    """
    rows = math.ceil(total / parts_of_a_job(total * ROW_WORK, total * round_trip))
    return [(start, min(start + rows, total)) for start in range(0, total, rows)]


def _parts(job_id: str) -> list[Range]:
    return cut(ledger().progress(job_id).counters.total, ledger().round_trip(job_id))


def _promise(request: FindBatchRequest, claim: Claim) -> Promise:
    if not request.rows:
        raise InvalidRequestError("The batch has no row. Give at least one.")
    note_round_trip(request, contexts_of(request), claim)
    return Promise([RowLine(row.number, dict(row.keys)) for row in request.rows])


class _RowQueue(LineQueue[RowLine]):
    """The rows of a part."""

    service: ClassVar[str] = "C-FIND"
    #: Some remotes end the association after each query, or after some.
    spares_progress: ClassVar[bool] = True
    request: FindBatchRequest

    def __init__(self, part: Part[RowLine], request: FindBatchRequest) -> None:
        super().__init__(part, request, contexts_of(request), part.left)
        #: The row in front and its query: one that is split goes on where it was.
        self._finding: tuple[int, FindOperation, MatchRecorder] | None = None

    def step(self, assoc: Association) -> None:
        """Query for the first row. Its matches are in the ledger before its outcome."""
        index, row = next(iter(self.queue.items()))
        self.answered = False
        self.unanswered.add(index)
        self.part.begin(index)
        begun = time.time()
        try:
            found, recorder = self._query(index, row.keys, assoc)
        except InvalidRequestError as error:
            self.part.fail(index, error)
        else:
            if found.category is Category.CANCELLED:
                self.part.check_end()
            if not self.try_later(index, found.status):
                if found.category not in _ANSWERED:
                    recorder.clear()
                recorder.close()
                outcome = _outcome_of(row.subject, self.request, found)
                self.part.record(index, outcome.model_copy(update={"begun": begun, "ended": time.time()}))
        self.unanswered.discard(index)
        del self.queue[index]
        if self.lease is not None:
            self.lease.moved(1, 0)

    def _query(self, index: int, keys: Mapping[str, str], assoc: Association) -> tuple[FindOutcome, MatchRecorder]:
        if self._finding is None or self._finding[0] != index:
            recorder = MatchRecorder(ledger(), self.part.job_id, index)
            limits = settings().answer_limits(self.request.remote)
            self._finding = index, FindOperation(_request_of(self.request, keys), limits, recorder), recorder
        _, finding, recorder = self._finding
        before = finding.queries
        try:
            return finding.run(assoc), recorder
        finally:
            self.answered = finding.queries > before


def _request_of(batch: FindBatchRequest, keys: Mapping[str, str]) -> FindRequest:
    try:
        return batch.of_row(keys)
    except ValueError:
        # The message of pydantic may repeat a value.
        raise InvalidRequestError("The query of this row is not valid. Correct its keys.") from None


def _outcome_of(subject: str, request: FindBatchRequest, found: FindOutcome) -> InstanceOutcome:
    """The outcome of a row: a success only where the answer is believed to be complete."""
    if found.category not in _ANSWERED:
        return InstanceOutcome(subject=subject, category=InstanceCategory.FAILED, status=found.status)
    # The remarks of a query that was split say why.
    doubt = "" if request.split_dates and not found.limit_hit else _doubt_of(request, found)
    reason = "; ".join(filter(None, (*found.remarks, doubt)))
    category = InstanceCategory.WARNING if found.doubts or found.keys_unmatched else InstanceCategory.SUCCESS
    return InstanceOutcome(subject=subject, category=category, reason=reason)


def _doubt_of(request: FindBatchRequest, found: FindOutcome) -> str:
    """Why the answer to a single query may be incomplete; empty if there is no reason to think so."""
    count = found.number
    if found.limit_hit:
        return f"There are more matches than the limit of {request.limit}. Raise it or narrow the query."
    if Doubt.STATUS in found.doubts:
        return f"The PACS ended the query after {count} matches ({found.status}). Narrow it: there may be more."
    if Doubt.ROUND in found.doubts:
        return (
            f"The PACS returned {count} matches, which may be a limit of its own. "
            "Narrow the query, or split it by dates."
        )
    # The remark says why an answer was cut off.
    return "There may be more matches. Narrow the query." if {*found.doubts} - {Doubt.CUT_OFF} else ""


def _query_rows(part: Part[RowLine], request: FindBatchRequest) -> bool:
    """Query for the rest of a part; true if something should be tried again later."""
    return work_off(part, request, lambda: [_RowQueue(part, request)])


register_chord(FindBatchRequest, "pacs_tasks.find_batch", _promise, _parts, _query_rows)
