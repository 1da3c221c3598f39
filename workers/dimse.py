"""The worker of a fleet: ``celery -A workers.dimse worker``.

It loads every task, looks for jobs that stand still and for peers that come back, and closes its associations in good
order when it ends.
"""

from __future__ import annotations

import threading

from celery.signals import worker_process_shutdown, worker_ready, worker_shutdown, worker_shutting_down

from pacs_tasks import tasks
from pacs_tasks.app import app
from pacs_tasks.tasks.engine.associations import close_all
from pacs_tasks.tasks.engine.probe import probe
from pacs_tasks.tasks.engine.resume import watch
from pacs_tasks.tasks.engine.shutdown import stop
from workers import broker_channel

__all__ = ["app", "tasks"]

_stopped = threading.Event()
broker_channel.install()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _watch(**_: object) -> None:
    """The children have their work; the worker itself looks for work that was lost, and for peers that are down."""
    for look in (watch, probe):
        threading.Thread(target=look, args=[_stopped], name=look.__name__, daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _end_soon(**_: object) -> None:
    """The parts that run end behind the file that is under way."""
    stop()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _release_in_child(**_: object) -> None:
    """A child of the prefork pool ends."""
    close_all()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _release_in_worker(**_: object) -> None:
    """A worker ends; one whose pool is threads, or solo, has associations itself."""
    _stopped.set()
    close_all()
