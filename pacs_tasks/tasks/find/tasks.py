"""``pacs_tasks.find``: query. The matches go to the ledger, never into Celery's result: they are patient data."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from pacs_tasks.dimse.find.c_find import FindOperation, context_of
from pacs_tasks.outcome import FindOutcome
from pacs_tasks.request import FindRequest
from pacs_tasks.tasks.engine.associations import new_association
from pacs_tasks.tasks.engine.base import JobTask, register
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import answer
from pacs_tasks.tasks.engine.session import Loss, Session


def _work(request: FindRequest, claim: Claim) -> FindOutcome:
    started, finding = time.monotonic(), FindOperation(request)
    answered = 0

    def lost(loss: Loss) -> None:
        """Some remotes end the association after each query: a query that is split goes on over the next one."""
        nonlocal answered
        if finding.queries == answered:
            raise loss.error
        answered = finding.queries

    with Session(lambda: new_association(request, [context_of(request)], claim)) as session:
        while (outcome := session.attempt(finding.run, lost)) is None:
            pass
    return outcome.model_copy(update={"seconds": time.monotonic() - started})


@register(FindRequest.task, base=JobTask)
def find(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Query the remote."""
    return answer(self, request, FindRequest, _work)
