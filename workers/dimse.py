"""The worker of a fleet: ``celery -A workers.dimse worker``.

It loads every task, looks for jobs that stand still and for peers that come back, and closes its associations in good
order when it ends.
"""

from __future__ import annotations

import threading

from celery.signals import worker_process_shutdown, worker_ready, worker_shutdown, worker_shutting_down
from kombu.transport import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from pacs_tasks import tasks
from pacs_tasks.app import app
from pacs_tasks.tasks.engine.associations import close_all
from pacs_tasks.tasks.engine.resume import watch_jobs, watch_remotes
from pacs_tasks.tasks.engine.retry import shut_down

__all__ = ["app", "tasks"]

_stopped = threading.Event()


class QoS(redis.QoS):
    """What was handed out and is not acknowledged."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; a message that came with a connection that is lost is handed out again in any case.

        Raises
        ------
        RedisConnectionError
            If that connection is lost: Celery logs that, where it would log a traceback of anything else.
        """
        connection = self.channel.connection
        if connection is None or connection.client is None:
            raise RedisConnectionError("the connection that this message came with is lost")
        super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # kombu ships no annotations


class Channel(redis.Channel):
    """A channel that can be closed whatever has become of its connection."""

    QoS = QoS

    def close(self) -> None:
        """Close; what is not acknowledged goes back on its queue if the broker takes it now, else by its time-out."""
        try:
            super().close()  # type: ignore[no-untyped-call]
        except self.connection_errors:
            # Nothing is read any more now, so this goes to the end.
            super().close()  # type: ignore[no-untyped-call]


# Celery has a setting for the transport, but the addresses of Unix sockets override it.
redis.Transport.Channel = Channel


@worker_ready.connect  # type: ignore[untyped-decorator]
def _watch(**_: object) -> None:
    """The children have their work; the worker itself looks for work that was lost, and for peers that are down."""
    for watch in (watch_jobs, watch_remotes):
        threading.Thread(target=watch, args=[_stopped], name=watch.__name__, daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _end_soon(**_: object) -> None:
    """The parts that run end behind the file that is under way."""
    shut_down()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _release_in_child(**_: object) -> None:
    """A child of the prefork pool ends."""
    close_all()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _release_in_worker(**_: object) -> None:
    """A worker ends; one whose pool is threads, or solo, has associations itself."""
    _stopped.set()
    close_all()
