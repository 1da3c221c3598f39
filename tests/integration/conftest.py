"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import PacsClient, embedded
from pacs_tasks.settings import Settings, load
from tests.support.processes import Process


@pytest.fixture
def client(shared_redis_url: str, shared_worker: Process) -> Iterator[PacsClient]:
    """A client of the shared worker."""
    assert shared_worker.running(), shared_worker.said()
    with PacsClient(shared_redis_url) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a private server, which is ended afterwards."""
    config = load(data_dir=tmp_path / "data", idle_timeout=60.0, concurrency=1)
    yield config
    embedded.stop(config)
