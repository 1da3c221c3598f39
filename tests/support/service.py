"""The Celery app of another service, which knows only the address of the Redis and the names of tasks and queues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery


@contextmanager
def another_service(redis_url: str) -> Iterator[Celery]:
    """Give an app without any of our modules, and close its connections at the end.

    ``Celery.close`` leaves those for results open. The garbage collector then reports their sockets in whatever test
    runs at that time. Those for publishing belong to kombu's pools, which the apps of a process share.
    """
    app = Celery("another-service", broker=redis_url, backend=redis_url, set_as_current=False)
    try:
        yield app
    finally:
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()
        app.close()
