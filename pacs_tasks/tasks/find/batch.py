"""``pacs_tasks.find_batch``: many queries, each to its own outcome.

The rows of the request are the manifest. What a row finds goes to the ledger, never into a message or Celery's result.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, cast

from celery import Task

from pacs_tasks.app import app
from pacs_tasks.dimse.find import c_find
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import InvalidRequestError, PeerBusyError
from pacs_tasks.request import FindBatchRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, ledger, local_ae, pause, timeouts
from pacs_tasks.tasks.engine.chord import Part, Range, fan_out, finish, pending, work_on
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.planner import Promise, plan
from pacs_tasks.tasks.engine.retry import come_again
from pacs_tasks.tasks.find.part import ask
from pacs_tasks.tasks.store.tasks import FEWEST_PARTS, MOST_PARTS, PART_WORK

#: Seconds that a row takes at least: a quick PACS answers in so long, and its matches are to be decoded.
ROW_WORK = 0.004


def cut(total: int, round_trip: float) -> list[Range]:
    """Cut so many rows into parts, each with about :data:`PART_WORK` seconds of work; see :mod:`.store`."""
    wanted = math.ceil(PART_WORK / (ROW_WORK + round_trip))
    rows = max(1, min(wanted, total // FEWEST_PARTS), math.ceil(total / MOST_PARTS))
    return [(start, min(start + rows, total)) for start in range(0, total, rows)]


def _ranges(job_id: str) -> list[Range]:
    total = ledger().progress(job_id).counters.total
    return pending(job_id, cut(total, ledger().round_trip(job_id)))


def _promise(request: FindBatchRequest, claim: Claim) -> Promise:
    """The rows, once it is seen that the peer takes our association: before many parts find out that it does not."""
    if not request.rows:
        raise InvalidRequestError("there is no row to ask for; give at least one")
    # Busy: the parts wait until it is not.
    with (
        suppress(PeerBusyError),
        leased(request.remote, claim) as stop,
        Association.open(
            local_ae(request), request.remote, [c_find.context_of(request)], timeouts(request), stop
        ) as assoc,
    ):
        ledger().note_round_trip(claim.job_id, assoc.wire.round_trip)
    return Promise([[f"row {row.number}", row.number, dict(row.keys)] for row in request.rows])


@app.task(bind=True, base=JobTask, name=FindBatchRequest.task)  # type: ignore[untyped-decorator]
def find_batch(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask many queries (C-FIND): becomes a chord of parts."""

    def chord_of_parts(_: FindBatchRequest, job_id: str) -> None:
        fan_out(self, job_id, _ranges(job_id), find_batch_part, find_batch_finish)

    return plan(self, request, FindBatchRequest, _promise, chord_of_parts)


@app.task(bind=True, name="pacs_tasks.find_batch_part", ignore_result=True)  # type: ignore[untyped-decorator]
def find_batch_part(self: Task, job_id: str, start: int, stop: int, tries: int = 0) -> None:
    """Ask the queries ``start`` up to ``stop`` of a job's manifest; never raises for a query."""

    def work(part: Part) -> bool:
        request = cast(FindBatchRequest, ledger().request(job_id))
        return ask(part, request, last_try=tries >= settings().max_retries)

    if work_on(self, job_id, start, stop, work):
        come_again(self, pause(tries), kwargs={"tries": tries + 1})


@app.task(bind=True, name="pacs_tasks.find_batch_finish")  # type: ignore[untyped-decorator]
def find_batch_finish(self: Task, job_id: str) -> dict[str, Any]:
    """The chord's body: the summary of the job."""
    return finish(self, job_id, _ranges, find_batch_part)
