"""The Celery app of a client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pacs_tasks.app import create
from pacs_tasks.settings import Settings


def test_threads_of_a_client_share_its_connections() -> None:
    """A service that retries jobs in threads that soon end would collect connections otherwise."""
    with create("redis://127.0.0.1:1/0", Settings()) as app, ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: app.backend).result() is app.backend
