"""Fixtures of the integration tests."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pacs_tasks import PacsClient, embedded
from pacs_tasks.connection import connect
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.settings import Settings, load
from pacs_tasks.testing import TestPACS
from tests.support import ports, workers
from tests.support.dicom_files import write_many
from tests.support.processes import Process
from tests.support.waiting import wait_until

_DESCRIPTORS = Path("/proc/self/fd")


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


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A ledger of this test's own; jobs are kept for a minute."""
    connection = connect(redis_url, 5)
    yield Ledger(connection, keep_jobs=60)
    connection.close()


class Receiver(NamedTuple):
    """A running receiver; ``incoming`` is where it keeps what jobs expect."""

    ae_title: str
    port: int
    incoming: Path


@pytest.fixture(scope="module")
def receiver(shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver that shares its storage with the shared worker; an ``archive`` of the same test knows it."""
    port, directory = ports.free_port(), tmp_path_factory.mktemp("receiver")
    with workers.receiver(shared_redis_url, directory, port, "RECEIVER"):
        yield Receiver("RECEIVER", port, directory / "data/received/incoming")


@pytest.fixture
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestPACS]:
    """A PACS that holds the (study, series, number of instances) of the mark ``holds``; more arguments are its own."""
    mark = request.node.get_closest_marker("holds")
    options = dict(mark.kwargs)
    if "receiver" in request.fixturenames:
        known: Receiver = request.getfixturevalue("receiver")
        options["destinations"] = {known.ae_title: ("127.0.0.1", known.port)}
    with TestPACS(instances=write_many(tmp_path / "held", *mark.args), **options) as running:
        yield running


def _sockets() -> set[str]:
    """The sockets of this process, on Linux."""
    found: set[str] = set()
    for each in _DESCRIPTORS.iterdir() if _DESCRIPTORS.exists() else ():
        try:
            target = str(each.readlink())
        except OSError:
            # It was the descriptor of this very listing, or was closed meanwhile.
            continue
        found.update({target} if target.startswith("socket:") else ())
    return found


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of the wire leave neither a thread nor a socket behind; Redis and Celery keep theirs between tests."""
    if ".dimse." not in request.module.__name__ or {"client", "redis_url", "settings"} & set(request.fixturenames):
        yield
        return
    threads, sockets = set(threading.enumerate()), _sockets()
    yield

    def left() -> bool:
        return not (set(threading.enumerate()) <= threads and _sockets() <= sockets)

    if left():
        # Whatever is only kept alive by a circle of references tells of its open socket now.
        gc.collect()
        wait_until(lambda: not left(), 10, f"threads and sockets to end: {set(threading.enumerate()) - threads}")
