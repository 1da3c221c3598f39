"""The routes that stream: the progress of a job as it changes, and as patient data its receipts and matches."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from pacs_tasks.cli.output.sheet import BOM, csv_lines
from pacs_tasks.client import Job
from pacs_tasks.errors import InvalidRequestError, JobNotReadyError, PacsTasksError
from pacs_tasks.ledger.outcomes import read_matches
from pacs_tasks.ledger.receipts import Receipt
from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import FindOutcome
from pacs_tasks.request import FindBatchRequest
from pacs_tasks.serve.access import Access, Caller, Reader, Services, Shared, check_scope
from pacs_tasks.serve.routes.jobs import JobId
from pacs_tasks.serve.watch import Update, end_id

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])

_EVENTS = "text/event-stream"
#: Proxies pass each event on at once.
_AT_ONCE = {"X-Accel-Buffering": "no"}
LastEventId = Annotated[
    str | None,
    Header(
        max_length=255,
        description="The id of the last event that was received. A browser sends it when it comes back; 204 ends that.",
    ),
]
_SIGN_OF_LIFE = b": still there\n\n"
#: Lines in one write.
_CHUNK = 500
_JSON_LINES = "application/x-ndjson"
_CSV = "text/csv; charset=utf-8"
_LINES = {"content": {_JSON_LINES: {"schema": {"type": "string"}}}}


@router.get(
    "/events",
    operation_id="watch_job",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Events `progress`, then `end`.", "content": {_EVENTS: {}}},
        204: {"description": "The end was the last event already."},
    },
)
async def watch_job(job_id: JobId, caller: Reader, services: Shared, last_event_id: LastEventId = None) -> Response:
    """Follow a job by server-sent events. Each has the progress as data; the last one is called ``end``."""
    updates = services.watch.follow(job_id)
    first = await anext(updates, None)
    if first is None:
        # There is no such job, or Redis does not answer: this says which.
        await run_in_threadpool(services.client.job, job_id)
    elif last_event_id and end_id(first.whole) == last_event_id:
        await updates.aclose()
        return Response(status_code=204)
    return StreamingResponse(_events(first, updates, caller, services.access), 200, _AT_ONCE, _EVENTS)


async def _events(
    first: Update | None, updates: AsyncIterator[Update | None], caller: Caller, access: Access
) -> AsyncIterator[bytes]:
    """Give the events of a job; the stream ends when the token is revoked."""
    patients = caller.may(Scope.PATIENTS)
    yield _event(first, patients=patients)
    async for update in updates:
        # While Redis is away nothing changes.
        with contextlib.suppress(PacsTasksError):
            if caller.digest and await access.reader(caller.digest) is None:
                return
        yield _event(update, patients=patients)


def _event(update: Update | None, *, patients: bool) -> bytes:
    if update is None:
        return _SIGN_OF_LIFE
    return update.whole_event if patients else update.public_event


class Format(StrEnum):
    """How receipts are written."""

    JSONL = "jsonl"
    CSV = "csv"


@router.get(
    "/receipts",
    operation_id="download_receipts",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A receipt a line.",
            "content": {**_LINES["content"], "text/csv": {"schema": {"type": "string"}}},
        }
    },
)
def download_receipts(
    job_id: JobId,
    caller: Reader,
    services: Shared,
    kind: Annotated[Format, Query(alias="format", description="A JSON object on each line, or CSV.")] = Format.JSONL,
    *,
    excel: Annotated[bool, Query(description="Write CSV that spreadsheets open without harm.")] = False,
) -> StreamingResponse:
    """Download a receipt for each file or instance of a job that sends or retrieves."""
    check_scope(caller, Scope.PATIENTS)
    receipts = services.client.job(job_id).receipts()
    name = f'attachment; filename="receipts-{job_id[:8] if job_id.isalnum() else "job"}.{kind}"'
    if kind is Format.JSONL:
        return StreamingResponse(
            _json_lines(each.model_dump() for each in receipts), 200, {"Content-Disposition": name}, _JSON_LINES
        )
    return StreamingResponse(_csv(receipts, excel=excel), 200, {"Content-Disposition": name}, _CSV)


@router.get(
    "/matches",
    operation_id="download_matches",
    response_class=StreamingResponse,
    responses={200: {"description": "A match a line, with the number of its row.", **_LINES}},
)
def download_matches(job_id: JobId, caller: Reader, services: Shared) -> StreamingResponse:
    """Download the matches of a query or of a batch of queries, as DICOM JSON (PS3.18 annex F)."""
    check_scope(caller, Scope.PATIENTS)
    return StreamingResponse(_json_lines(_matches(services, services.client.job(job_id))), 200, None, _JSON_LINES)


def _matches(services: Services, job: Job) -> Iterable[dict[str, Any]]:
    progress = job.progress()
    if progress.task == FindBatchRequest.task:
        return ({"row": each.row, "match": match} for each in job.matches() for match in each.matches)
    job_id, operation = job.id, OPERATIONS.get(progress.task)
    if operation is None or operation.outcome is not FindOutcome:
        raise InvalidRequestError(f"Job {job_id} is not a query. Name a job of pacs_tasks.find.")
    if not progress.state.finished:
        raise JobNotReadyError(f"Job {job_id} is still {progress.state}. Wait for its end.")
    (found,) = read_matches(services.client.ledger, job.id, [0])
    return ({"row": 1, "match": match} for match in found)


def _json_lines(documents: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    rest = iter(documents)
    while chunk := list(islice(rest, _CHUNK)):
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in chunk)
        yield text.encode("utf-8", "backslashreplace")


def _csv(receipts: Iterator[Receipt], *, excel: bool) -> Iterator[bytes]:
    yield ((BOM if excel else "") + csv_lines([Receipt.model_fields], excel=excel)).encode()
    while chunk := [each.model_dump().values() for each in islice(receipts, _CHUNK)]:
        yield csv_lines(chunk, excel=excel).encode("utf-8", "backslashreplace")
