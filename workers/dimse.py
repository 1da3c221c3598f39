"""The worker of a fleet: ``celery -A workers.dimse worker``.

It loads every task, resumes stalled jobs, probes parked remotes, and releases its associations when it ends. It also
survives the loss of its connection to the broker. In kombu 5.7.0, a channel that waits for messages cannot be closed
once its connection has died: ``close`` reads from the dead connection and fails half-way. A later second ``close``
puts unacknowledged messages back without knowing the broker's address, and raises ``AttributeError``, which ends the
worker ("Unrecoverable error"). So a restart of Redis would end each worker that has a task and an idle process.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery.signals import (
    celeryd_after_setup,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from kombu.transport import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from pacs_tasks import tasks
from pacs_tasks.app import app
from pacs_tasks.connection import explain, place_of
from pacs_tasks.sealing import IN_CLEAR
from pacs_tasks.settings import settings
from pacs_tasks.tasks.audit import watch_audits
from pacs_tasks.tasks.engine.associations import close_all
from pacs_tasks.tasks.engine.base import shut_down
from pacs_tasks.tasks.engine.claim import watch_jobs, watch_remotes

__all__ = ["app", "tasks"]

logger = logging.getLogger(__name__)
# At DEBUG, the pool of Celery logs the arguments of each task, which may be the request of another service.
logging.getLogger("celery.pool").setLevel(logging.INFO)

_stopped = threading.Event()
_audit = threading.Thread(target=watch_audits, args=[_stopped], name="audit", daemon=True)
#: Seconds to write what the end of the worker adds to the audit trail; Redis keeps it for another worker.
_AUDIT_LIMIT = 5.0


class QoS(redis.QoS):
    """The messages that were delivered and are not acknowledged."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; one that came over a lost connection is delivered again in any case.

        Raises
        ------
        RedisConnectionError
            If that connection is lost. Celery logs this error as one line, and any other with a traceback.
        """
        connection = self.channel.connection
        if connection is None or connection.client is None:
            raise RedisConnectionError("The connection over which this message came is lost.")
        super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # kombu ships no annotations


class Channel(redis.Channel):
    """A channel that can be closed even if its connection is lost.

    Raises
    ------
    RedisConnectionError
        If the Redis accepts no data. Celery pauses ever longer between attempts to connect, but begins anew at once,
        with a traceback each second, if the first write fails over a connection that it has.
    """

    QoS = QoS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        try:
            self.client.set("pacs_tasks.writable", 1, px=1)
        except ResponseError as error:
            place = place_of(self.connection.client.as_uri())
            self.close()
            raise RedisConnectionError(str(explain(error, place) or error).rstrip(".")) from None

    def close(self) -> None:
        """Close; unacknowledged messages return to their queue now, or by the visibility timeout if that fails."""
        try:
            super().close()  # type: ignore[no-untyped-call]
        except self.connection_errors:
            # The channel no longer reads, so this call reaches its end.
            super().close()  # type: ignore[no-untyped-call]


# The addresses of Unix sockets override Celery's setting for the transport.
redis.Transport.Channel = Channel


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _route_what_follows(**_: object) -> None:
    """Publish callbacks, chains and chords of other services to whatever queue these name; the worker serves its own.

    The queues that the worker serves are selected by now, so a misspelt one was an error.
    """
    app.amqp.queues.create_missing = True


@worker_ready.connect  # type: ignore[untyped-decorator]
def _watch(**_: object) -> None:
    """Start the threads that resume stalled jobs and probe parked remotes, in the main process of the worker."""
    if not settings().keys:
        logger.warning(IN_CLEAR)
    _audit.start()
    for target in (watch_jobs, watch_remotes):
        threading.Thread(target=target, args=[_stopped], name=target.__name__, daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _end_soon(**_: object) -> None:
    """Have running parts end after their current file."""
    shut_down()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _release_in_child(**_: object) -> None:
    """Release the associations of a child of the prefork pool."""
    close_all()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _release_in_worker(**_: object) -> None:
    """Release the associations of a worker whose pool is threads or solo."""
    _stopped.set()
    close_all()
    if _audit.is_alive():
        _audit.join(_AUDIT_LIMIT)
