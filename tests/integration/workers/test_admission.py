"""Crowds at the receiver: whoever calls, and however often, known remotes and other callers still get in."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import attacks, workers
from tests.support.cost import bounded
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.waiting import wait_until

KNOWN = "127.0.0.9"
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
MANY = [f"127.0.0.{number}" for number in range(20, 250)]
WHOLE = attacks.request("CROWD")
#: Seconds that a known remote may wait for its association.
SOON = 1.0


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
def receiver(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, port: int) -> Iterator[Process]:
    """Run a receiver that knows one remote."""
    remotes = json.dumps({"archive": {"ae_title": "ARCHIVE", "host": KNOWN}})
    with workers.receiver(
        redis_url, tmp_path, port, PACS_TASKS_REMOTES=remotes, PACS_TASKS_RECEIVER_PROCESSES=str(request.param)
    ) as running:
        wait_until(lambda: attacks.called(port, KNOWN, "ARCHIVE") is None, 10, "the receiver to accept")
        yield running


@pytest.mark.parametrize("receiver", [1], indirect=True)
@pytest.mark.parametrize(
    ("addresses", "first", "rest"),
    [
        (["127.0.0.1"], b"", b""),
        (MANY, b"", b""),
        (MANY, WHOLE[:1], WHOLE[1:]),
        (MANY, WHOLE, b""),
        (MANY, b"\1\0\0\3\xff\xff", b"\0" * 100_000),
    ],
    ids=["silent", "silent everywhere", "byte by byte", "associations everywhere", "long"],
)
def test_two_thousand_connections_do_not_delay_a_known_remote(
    receiver: Process,
    port: int,
    addresses: list[str],
    first: bytes,
    rest: bytes,
    record_property: Callable[[str, object], None],
) -> None:
    """Its associations are accepted within a second, and the receiver keeps few threads and descriptors."""
    with bounded(receiver, 60, 100 << 20, record_property), attacks.crowd(port, 2_000, addresses, first, rest):
        waits = []
        for _ in range(10):
            begun = time.monotonic()
            with attacks.connected(port, KNOWN, attacks.request("ARCHIVE")) as sock:
                assert attacks.answered(sock) is None
                waits.append(time.monotonic() - begun)
        threads, descriptors = (len(list(Path(f"/proc/{receiver.pid}/{each}").iterdir())) for each in ("task", "fd"))
    record_property("longest wait", f"{max(waits):.3f} s; {threads} threads, {descriptors} descriptors")
    # The crowd and other tests share the cores with the receiver.
    assert statistics.median(waits) < SOON
    assert threads < 220
    assert descriptors < 1_000
    assert "Traceback" not in receiver.said()
    assert receiver.said().count("\n") < 130, "strangers do not fill the log"


def test_eighty_associations_of_one_peer_leave_room(receiver: Process, port: int) -> None:
    """It has its share; others at the same address, elsewhere, and the known remote get in."""
    with ExitStack() as stack:
        answers = []
        for _ in range(80 * 2):
            sock = stack.enter_context(attacks.connected(port, "127.0.0.2", attacks.request("GREEDY")))
            answers.append(attacks.answered(sock))
        assert set(answers) == {None, LOCAL_LIMIT_EXCEEDED}
        assert answers.count(None) >= 64
        assert attacks.called(port, "127.0.0.2", "MODALITY") is None
        assert attacks.called(port, "127.0.0.3", "MODALITY") is None
        assert attacks.called(port, KNOWN, "ARCHIVE") is None
    assert "too many associations are open, in all or of this caller" in receiver.said()


def test_strangers_do_not_use_up_the_share_of_a_known_remote(redis_url: str, tmp_path: Path, port: int) -> None:
    """Callers elsewhere that use its AE title do not count for it, and a quarter of all places is kept for it."""
    remotes = json.dumps({"archive": {"ae_title": "ARCHIVE", "host": KNOWN}})
    limits = {"PACS_TASKS_RECEIVER_MAX_ASSOCIATIONS": "8", "PACS_TASKS_RECEIVER_MAX_PER_CALLER": "4"}
    with (
        workers.receiver(redis_url, tmp_path, port, PACS_TASKS_REMOTES=remotes, **limits),
        ExitStack() as stack,
    ):
        wait_until(lambda: attacks.called(port, KNOWN, "ARCHIVE") is None, 10, "the receiver to accept")

        def opened(source: str, title: str) -> bool:
            sock = stack.enter_context(attacks.connected(port, source, attacks.request(title)))
            return attacks.answered(sock) is None

        assert [opened("127.0.0.2", "ARCHIVE") for _ in range(5)] == [True] * 4 + [False]
        assert [opened("127.0.0.3", "OTHER") for _ in range(3)] == [True] * 2 + [False]
        assert [opened(KNOWN, "ARCHIVE") for _ in range(3)] == [True] * 2 + [False]
