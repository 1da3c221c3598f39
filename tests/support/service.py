"""The Celery app of another service, which knows only the address of the Redis and the names of tasks and queues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery

from pacs_tasks.app import close_results


@contextmanager
def another_service(redis_url: str) -> Iterator[Celery]:
    """Give an app without any of our modules, and close its connections at the end."""
    app = Celery("another-service", broker=redis_url, backend=redis_url, set_as_current=False)
    try:
        yield app
    finally:
        close_results(app)
        app.close()
