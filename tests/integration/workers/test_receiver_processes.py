"""A receiver with several processes on one port: nothing is lost if one dies, and none outlives the receiver."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_store import store_all
from pacs_tasks.dimse.files.part10 import StoredInstance, read_instance
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.outcome import InstanceCategory
from tests.support import attacks, workers
from tests.support.dicom_files import data_set, write_series
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, Process, started
from tests.support.waiting import wait_until

PROCESSES = 2
SENDERS = 8
EACH = 25


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def receiver(redis_url: str, tmp_path: Path, port: int) -> Iterator[Process]:
    with workers.receiver(redis_url, tmp_path, port, PACS_TASKS_RECEIVER_PROCESSES=str(PROCESSES)) as running:
        wait_until(lambda: len(children(running)) == PROCESSES, 10, "its processes")
        yield running


def children(process: Process) -> list[int]:
    """The processes that receive, without the resource tracker of multiprocessing."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(each) for each in found if b"spawn_main" in _command_of(each)]


def _command_of(pid: str) -> bytes:
    """The command line of a process; empty if it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def sent(instances: list[StoredInstance], port: int) -> int:
    """How many instances the receiver accepted over one association."""
    ((contexts, _),) = contexts_for(instances)
    remote = RemoteAE(ae_title="PACS_TASKS", port=port)
    with Association.open(LocalAE(), remote, contexts, Timeouts.of(20)) as assoc:
        return sum(outcome.category is InstanceCategory.SUCCESS for _, outcome in store_all(assoc, instances))


def kept(directory: Path) -> dict[str, bytes]:
    return {path.stem: data_set(path) for path in (directory / "data/received").rglob("*.dcm")}


def test_all_share_the_work_and_nothing_is_lost(receiver: Process, port: int, tmp_path: Path) -> None:
    """The counts of all processes add up."""
    series = [
        [read_instance(str(path)) for path in write_series(tmp_path / str(number), EACH, series=number)]
        for number in range(1, SENDERS + 1)
    ]
    with ThreadPoolExecutor(SENDERS) as pool:
        assert list(pool.map(lambda each: sent(each, port), series)) == [EACH] * SENDERS
    expected = {each.sop_instance_uid: data_set(Path(each.path)) for instances in series for each in instances}
    assert kept(tmp_path) == expected
    receiver.end(20)
    counts = [int(line.split("Received ")[1].split()[0]) for line in receiver.said().splitlines() if "refused" in line]
    assert sum(counts) == SENDERS * EACH
    assert "Traceback" not in receiver.said()


def test_a_process_that_dies_is_replaced(receiver: Process, port: int, tmp_path: Path) -> None:
    """The others receive meanwhile."""
    instances = [read_instance(str(path)) for path in write_series(tmp_path / "files", EACH)]
    victim = children(receiver)[0]
    os.kill(victim, signal.SIGKILL)
    assert sent(instances, port) == EACH
    wait_until(lambda: len(set(children(receiver)) - {victim}) == PROCESSES, 20, "another process")
    assert len(kept(tmp_path)) == EACH


def test_it_announces_itself_once_it_receives(redis_url: str, tmp_path: Path, port: int) -> None:
    """Not while its processes start: on a busy machine, a PACS that was told so would wait for them."""
    env = workers.receiver_environment(redis_url, tmp_path, port, PACS_TASKS_RECEIVER_PROCESSES=str(PROCESSES))
    command = [sys.executable, "-m", "workers.receiver"]
    with started(command, tmp_path / "log", lambda it: len(children(it)) == PROCESSES, env=env, cwd=ROOT) as receiver:
        starting = children(receiver)
        for each in starting:
            os.kill(each, signal.SIGSTOP)
        try:
            assert answers(port), "it listens"
            assert "Receiving" not in receiver.said()
            assert not workers.is_announced(redis_url, "PACS_TASKS", port)
        finally:
            for each in starting:
                os.kill(each, signal.SIGCONT)
        wait_until(lambda: workers.is_announced(redis_url, "PACS_TASKS", port), 60, "the announcement")
        assert "Receiving" in receiver.said()
        assert attacks.called(port, "127.0.0.1", "MODALITY") is None


def test_no_process_outlives_the_receiver(receiver: Process, port: int) -> None:
    """A killed receiver frees its port, so that the next one can start."""
    os.kill(receiver.pid, signal.SIGKILL)
    receiver.popen.wait(10)
    wait_until(lambda: not answers(port), 20, "the port to be free")
    with socket.create_server(("127.0.0.1", port)):
        pass
