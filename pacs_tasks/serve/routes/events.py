"""The route of server-sent events: the progress of a job as it changes."""

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.serve.access import Access, Caller, Reader
from pacs_tasks.serve.routes.jobs import JobId
from pacs_tasks.serve.services import Shared
from pacs_tasks.serve.watch import Update

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])

MEDIA_TYPE = "text/event-stream"
#: Proxies pass each event on at once.
HEADERS = {"X-Accel-Buffering": "no"}
LastEventId = Annotated[
    str | None,
    Header(
        max_length=255,
        description="The id of the last event that was received. A browser sends it when it comes back; 204 ends that.",
    ),
]
_SIGN_OF_LIFE = b": still there\n\n"


@router.get(
    "/events",
    operation_id="watch_job",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Events `progress`, then `end`.", "content": {MEDIA_TYPE: {}}},
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
    elif first.end_id and first.end_id == last_event_id:
        await updates.aclose()
        return Response(status_code=204)
    return StreamingResponse(_events(first, updates, caller, services.access), 200, HEADERS, MEDIA_TYPE)


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
