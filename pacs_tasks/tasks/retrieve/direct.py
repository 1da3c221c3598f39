"""``pacs_tasks.get``: fetch a study or series on one association."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from celery import Task

from pacs_tasks.dimse.files import storage
from pacs_tasks.dimse.retrieve import c_get, c_move
from pacs_tasks.layout import Layout
from pacs_tasks.outcome import GetOutcome, MoveOutcome
from pacs_tasks.request import GetRequest, MoveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import JobTask, local_ae, register, timeouts
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import answer
from pacs_tasks.tasks.engine.paths import writable_directory
from pacs_tasks.tasks.retrieve.arrivals import placed


def _get(request: GetRequest, claim: Claim) -> GetOutcome:
    writable_directory(request.output_dir)
    with leased(request.remote, claim) as stop:
        # By its UIDs, and through no link that leads out of the directory.
        place = partial(placed, Layout(), Path(request.output_dir))
        outcome = c_get.get(request, local_ae(request), timeouts(request), stop, place=place)
    # An instance counts as received once it would survive a power cut.
    storage.sync([Path(instance.path) for instance in outcome.instances])
    return outcome


@register(GetRequest.task, base=JobTask)
def get(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fetch a study or series (C-GET)."""
    return answer(self, request, GetRequest, _get)


def _move(request: MoveRequest, claim: Claim) -> MoveOutcome:
    with leased(request.remote, claim) as stop:
        return c_move.move(request, local_ae(request), timeouts(request), stop)


@register(MoveRequest.task, base=JobTask)
def move(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Have a study or series sent elsewhere (C-MOVE)."""
    return answer(self, request, MoveRequest, _move)
