"""``pacs_tasks.move``: let the peer send a study or series to an AE that it knows."""

from __future__ import annotations

from typing import Any

from celery import Task

from pacs_tasks.app import app
from pacs_tasks.dimse.retrieve import c_move
from pacs_tasks.outcome import MoveOutcome
from pacs_tasks.request import MoveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, answer, local_ae, timeouts
from pacs_tasks.tasks.engine.claim import Claim


def _work(request: MoveRequest, claim: Claim) -> MoveOutcome:
    with leased(request.remote, claim) as stop:
        return c_move.move(request, local_ae(request), timeouts(request), stop)


@app.task(bind=True, base=JobTask, name=MoveRequest.task)  # type: ignore[untyped-decorator]
def move(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Have a study or series sent elsewhere (C-MOVE)."""
    return answer(self, request, MoveRequest, _work)
