"""``pacs_tasks.echo``: is the peer there, and does it accept us?"""

from __future__ import annotations

from typing import Any

from celery import Task

from pacs_tasks.app import app
from pacs_tasks.dimse import c_echo
from pacs_tasks.outcome import EchoOutcome
from pacs_tasks.request import EchoRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, answer, local_ae, timeouts
from pacs_tasks.tasks.engine.claim import Claim


def _work(request: EchoRequest, claim: Claim) -> EchoOutcome:
    with leased(request.remote, claim) as stop:
        return c_echo.echo(local_ae(request), request.remote, timeouts(request), stop)


@app.task(bind=True, base=JobTask, name=EchoRequest.task)  # type: ignore[untyped-decorator]
def echo(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Verify the peer (C-ECHO)."""
    return answer(self, request, EchoRequest, _work)
