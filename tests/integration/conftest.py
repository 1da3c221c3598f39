"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pacs_tasks import PacsClient
from tests.support.processes import Process


@pytest.fixture
def client(shared_redis_url: str, shared_worker: Process) -> Iterator[PacsClient]:
    """A client of the shared worker."""
    assert shared_worker.running(), shared_worker.said()
    with PacsClient(shared_redis_url) as running:
        yield running
