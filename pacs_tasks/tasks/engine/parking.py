"""Waiting for a remote that is down: its jobs are parked, and no part of theirs burns its tries.

A parked part just ends, without an outcome for what it did not begin. The probe hands out the job's planner again once
the remote is back, and that sees to what is left.
"""

from __future__ import annotations

from pacs_tasks.errors import PeerUnreachableError
from pacs_tasks.fleet.associations import name_of
from pacs_tasks.request import TransferRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import local_ae, outages


class PartParkedError(Exception):
    """The job waits for its remote now."""


def park_if_down(job_id: str, request: TransferRequest) -> None:
    """Do not even try a remote that counts as down.

    Raises
    ------
    PartParkedError
        If it does.
    """
    if outages().down(name_of(request.remote)):
        _park(job_id, request)


def note_unreachable(job_id: str, request: TransferRequest, error: PeerUnreachableError) -> None:
    """Note that an association could not be had.

    Raises
    ------
    PartParkedError
        If that was one too many.
    """
    remote = request.remote
    if outages().failed(name_of(remote), local_ae(request), remote, error.message):
        _park(job_id, request)


def _park(job_id: str, request: TransferRequest) -> None:
    patience = settings().give_up_after if request.give_up_after is None else request.give_up_after
    if outages().park(name_of(request.remote), job_id, patience):
        raise PartParkedError
