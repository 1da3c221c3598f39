"""The worker of a fleet: ``celery -A workers.dimse worker``.

It loads every task and closes its associations in good order when it ends.
"""

from __future__ import annotations

from celery.signals import worker_process_shutdown, worker_shutdown

from pacs_tasks import tasks
from pacs_tasks.app import app
from pacs_tasks.tasks.associations import close_all

__all__ = ["app", "tasks"]


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _release_in_child(**_: object) -> None:
    """A child of the prefork pool ends."""
    close_all()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _release_in_worker(**_: object) -> None:
    """A worker whose pool is threads, or solo, ends."""
    close_all()
