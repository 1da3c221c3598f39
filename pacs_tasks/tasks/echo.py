"""``pacs_tasks.echo``: verify the connection with a remote (C-ECHO)."""

from __future__ import annotations

from typing import Any

from celery import Task

from pacs_tasks.dimse import c_echo
from pacs_tasks.outcome import EchoOutcome
from pacs_tasks.request import EchoRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, local_ae, register, timeouts
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import answer


def _work(request: EchoRequest, claim: Claim) -> EchoOutcome:
    with leased(request, claim.job_id, claim) as lease:
        return c_echo.echo(
            local_ae(request), request.remote, timeouts(request), lease.stop, services=bool(request.services)
        )


@register(EchoRequest.task, base=JobTask)
def echo(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Verify the connection with a remote."""
    return answer(self, request, EchoRequest, _work)
