"""``pacs_tasks.find``: query. The matches go to the ledger, never into Celery's result: they are patient data."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from pacs_tasks.app import app
from pacs_tasks.dimse.find.c_find import Finding, context_of
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import FindOutcome
from pacs_tasks.request import FindRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, answer, local_ae, timeouts
from pacs_tasks.tasks.engine.claim import Claim


def _work(request: FindRequest, claim: Claim) -> FindOutcome:
    started, finding = time.monotonic(), Finding(request)
    while True:
        before = finding.queries
        try:
            outcome = _over_one(finding, request, claim)
        except PeerUnavailableError:
            # Some peers end the association after each query: a query that is split goes on over the next one.
            if finding.queries == before:
                raise
        else:
            return outcome.model_copy(update={"seconds": time.monotonic() - started})


def _over_one(finding: Finding, request: FindRequest, claim: Claim) -> FindOutcome:
    with (
        leased(request.remote, claim) as stop,
        Association.open(local_ae(request), request.remote, [context_of(request)], timeouts(request), stop) as assoc,
    ):
        return finding.on(assoc)


@app.task(bind=True, base=JobTask, name=FindRequest.task)  # type: ignore[untyped-decorator]
def find(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Query the peer (C-FIND)."""
    return answer(self, request, FindRequest, _work)
