"""A running API whose jobs the shared worker does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pacs_tasks.ledger.tokens import Scope
from tests.support.http_api import Api, serving
from tests.support.ports import free_port
from tests.support.processes import Process

#: The most bytes of an upload here.
UPLOAD_BYTES = 4_000_000


@pytest.fixture(scope="module")
def server(shared_redis_url: str, shared_worker: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API, called without a token."""
    assert shared_worker.running(), shared_worker.said()
    absent = {"absent": {"host": "127.0.0.1", "port": free_port(), "ae_title": "ABSENT"}}
    with serving(
        shared_redis_url,
        tmp_path_factory.mktemp("serve"),
        PACS_TASKS_REMOTES=json.dumps(absent),
        PACS_TASKS_SERVE_UPLOAD_BYTES=str(UPLOAD_BYTES),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def service(server: Api) -> Api:
    """The API as a service calls it that may do everything."""
    return server.as_one_who(Scope.READ, Scope.SUBMIT, Scope.PATIENTS)


@pytest.fixture(scope="module")
def reader(server: Api) -> Api:
    """The API as a service calls it that may read, without patient data."""
    return server.as_one_who(Scope.READ)
