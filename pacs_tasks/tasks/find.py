"""``pacs_tasks.find``: query. The matches go to the ledger, never into Celery's result: they are patient data."""

from __future__ import annotations

from typing import Any

from celery import Task

from pacs_tasks.app import app
from pacs_tasks.dimse import c_find
from pacs_tasks.outcome import FindOutcome
from pacs_tasks.request import FindRequest
from pacs_tasks.tasks.associations import leased
from pacs_tasks.tasks.claim import Claim
from pacs_tasks.tasks.job import JobTask, answer, local_ae, timeouts


def _work(request: FindRequest, claim: Claim) -> FindOutcome:
    with leased(request.remote, claim) as stop:
        return c_find.find(request, local_ae(request), timeouts(request), stop)


@app.task(bind=True, base=JobTask, name=FindRequest.task)  # type: ignore[untyped-decorator]
def find(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Query the peer (C-FIND)."""
    return answer(self, request, FindRequest, _work)
