"""The route of server-sent events: the progress of a job as it changes."""

from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.serve.access import Reader
from pacs_tasks.serve.jobs import JobId
from pacs_tasks.serve.services import Shared
from pacs_tasks.serve.watch import Update

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])

MEDIA_TYPE = "text/event-stream"
#: Proxies pass each event on at once.
HEADERS = {"X-Accel-Buffering": "no"}
_SIGN_OF_LIFE = b": still there\n\n"


@router.get(
    "/events",
    operation_id="watch_job",
    response_class=StreamingResponse,
    responses={200: {"description": "Events `progress`, then `end`.", "content": {MEDIA_TYPE: {}}}},
)
async def watch_job(job_id: JobId, caller: Reader, services: Shared) -> StreamingResponse:
    """Follow a job by server-sent events. Each has the progress as data; the last one is called ``end``."""
    if not services.watch.knows(job_id):
        await run_in_threadpool(services.client.job, job_id)
    updates = services.watch.follow(job_id)
    return StreamingResponse(_events(updates, patients=caller.may(Scope.PATIENTS)), 200, HEADERS, MEDIA_TYPE)


async def _events(updates: AsyncIterator[Update | None], *, patients: bool) -> AsyncIterator[bytes]:
    async for update in updates:
        if update is None:
            yield _SIGN_OF_LIFE
        else:
            yield update.whole_event if patients else update.public_event
