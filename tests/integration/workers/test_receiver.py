"""The process of the receiver: it receives, announces itself, survives the loss of Redis, and ends when told to."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.connection import connect
from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.fleet.receivers import MARKER, UNSOLICITED, Receiver, running
from pacs_tasks.outcome import InstanceCategory
from tests.support import workers
from tests.support.dicom_files import CHINESE_NAME, UID_ROOT, data_set, instance, study_uid, write
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, environment, started
from tests.support.redis_server import redis_server
from tests.support.sending import store
from tests.support.waiting import wait_until
from workers import health


def _announced(redis_url: str) -> list[Receiver]:
    client = connect(redis_url, 5)
    try:
        return running(client)
    finally:
        client.close()


def _send(path: Path, port: int) -> InstanceCategory:
    one = read_instance(str(path))
    ((contexts, _),) = contexts_for([one])
    remote = RemoteAE(ae_title="PACS_TASKS", port=port)
    with Association.open(LocalAE(), remote, contexts, Timeouts.of(10)) as assoc:
        return store(assoc, one).category


def _run(data_dir: Path, **values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers.receiver"],
        env=environment(
            PACS_TASKS_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
            PACS_TASKS_DATA_DIR=str(data_dir),
            PACS_TASKS_RECEIVER_HOST="127.0.0.1",
            **values,
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_receives_and_announces_itself(redis_url: str, tmp_path: Path) -> None:
    """An instance is stored bit for bit at the path of its UIDs, and a worker on this machine sees the storage."""
    port = free_port()
    path = write(instance(7), tmp_path / "one.dcm")
    with workers.receiver(redis_url, tmp_path, port) as process:
        (announced,) = wait_until(lambda: _announced(redis_url), 10, "the announcement")
        assert (announced.ae_title, announced.host, announced.port) == ("PACS_TASKS", "127.0.0.1", port)
        assert announced.shared
        assert _send(path, port) is InstanceCategory.SUCCESS
        kept = Path(announced.directory) / UNSOLICITED / study_uid(1) / f"{UID_ROOT}.1.1" / f"{UID_ROOT}.1.1.7.dcm"
        assert data_set(kept) == data_set(path)
        process.popen.terminate()
        assert process.popen.wait(15) == 0
        said = process.said()
    assert _announced(redis_url) == [], "it has withdrawn"
    assert "Received 1 instances and refused 0" in said
    for private in (CHINESE_NAME, "P12345", study_uid(1)):
        assert private not in said


def test_ends_although_somebody_is_connected(redis_url: str, tmp_path: Path) -> None:
    """A remote with an open association does not keep the receiver from ending."""
    port = free_port()
    one = read_instance(str(write(instance(), tmp_path / "one.dcm")))
    ((contexts, _),) = contexts_for([one])
    with workers.receiver(redis_url, tmp_path, port) as process:
        assoc = Association.open(LocalAE(), RemoteAE(port=port), contexts, Timeouts.of(10))
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(15) == 0, process.said()
        assoc.abort()


def test_receives_without_redis_and_announces_itself_when_it_is_there(tmp_path: Path) -> None:
    """Redis may start later or stop: receiving continues, and the announcement is repeated."""
    port, redis_port = free_port(), free_port()
    path = write(instance(), tmp_path / "one.dcm")
    url = f"redis://127.0.0.1:{redis_port}/0"
    with workers.receiver(url, tmp_path, port) as process:
        assert _send(path, port) is InstanceCategory.SUCCESS
        wait_until(lambda: "Receiving continues without an announcement" in process.said(), 10, "it to miss Redis")
        for _ in range(2):
            with redis_server(tmp_path, redis_port):
                wait_until(lambda: _announced(url), 20, "the announcement")
            assert _send(path, port) is InstanceCategory.SUCCESS
        assert process.running()
        assert "is announced again" in process.said()


def test_receivers_of_one_directory_share_its_mark(redis_url: str, tmp_path: Path) -> None:
    """The marker identifies the storage: a second receiver does not invalidate the first one's token."""
    with (
        workers.receiver(redis_url, tmp_path, free_port(), "FIRST"),
        workers.receiver(redis_url, tmp_path, free_port(), "SECOND"),
    ):
        both = wait_until(lambda: each if len(each := _announced(redis_url)) == 2 else [], 10, "two announcements")
        assert all(each.shared for each in both)
        directory = Path(both[0].directory)
        assert [path.name for path in directory.iterdir()] == [MARKER], "no temporary file stays behind"


def test_receives_for_the_private_server(tmp_path: Path) -> None:
    """Without a configured Redis, the receiver uses the private one."""
    port = free_port()
    env = environment(
        PACS_TASKS_DATA_DIR=str(tmp_path / "data"),
        PACS_TASKS_IDLE_TIMEOUT="0",
        PACS_TASKS_RECEIVER_HOST="127.0.0.1",
        PACS_TASKS_RECEIVER_PORT=str(port),
        PACS_TASKS_UNHEARD_OF="1",
    )
    command = [sys.executable, "-m", "workers.receiver"]
    with started(command, tmp_path / "receiver.log", lambda _: answers(port), env=env, cwd=ROOT) as process:
        assert "There is no setting PACS_TASKS_UNHEARD_OF" in process.said()
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        process.popen.terminate()
        assert process.popen.wait(15) == 0, process.said()


def test_taken_port_is_one_sentence(tmp_path: Path) -> None:
    """The message names the port, and the variable that changes it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = _run(tmp_path / "data", PACS_TASKS_RECEIVER_PORT=str(port))
    assert result.returncode == 2
    assert f"cannot listen at 127.0.0.1:{port}" in result.stderr
    assert "PACS_TASKS_RECEIVER_PORT" in result.stderr
    assert "Traceback" not in result.stderr


def test_unusable_directory_is_one_sentence(tmp_path: Path) -> None:
    """The message names the variable that changes the directory."""
    (tmp_path / "file").write_text("")
    result = _run(tmp_path / "data", PACS_TASKS_RECEIVER_DIR=str(tmp_path / "file"), PACS_TASKS_RECEIVER_PORT="0")
    assert result.returncode == 2
    assert "PACS_TASKS_RECEIVER_DIR" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", ["worker", "receiver", "redis", "flower"])
def test_health_of_what_is_not_there_is_one_line(tmp_path: Path, kind: str) -> None:
    """A missing service gives one line and the exit code 1 within seconds."""
    env = environment(
        PACS_TASKS_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
        PACS_TASKS_RECEIVER_PORT=str(free_port()),
        PACS_TASKS_FLOWER_PORT=str(free_port()),
    )
    done = _health(kind, env)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("answered", [0, 1])
def test_a_worker_is_alive_while_no_name_server_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], redis_url: str, answered: int
) -> None:
    """A lookup has no time limit of its own; whoever restarted all workers meanwhile would help nobody."""
    answer, lookups, look_up = threading.Event(), itertools.count(), socket.getaddrinfo

    def hang(*given: Any, **more: Any) -> Any:
        if next(lookups) >= answered:
            answer.wait(20)
        return look_up(*given, **more)

    monkeypatch.setenv("PACS_TASKS_REDIS_URL", redis_url.replace("127.0.0.1", "localhost"))
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(health, "LIMIT", 1.0)
    monkeypatch.setattr(health, "STEP", 0.5)
    before = set(threading.enumerate())
    codes = [health.main(["alive"]), health.main(["redis"])]
    answer.set()
    for each in set(threading.enumerate()) - before:
        each.join(20)
    said = capsys.readouterr()
    assert codes == [0, 1]
    assert said.out == "The worker waits for its Redis. The name server does not answer.\n"
    assert said.err == "Redis does not answer within 1 s.\n"


def test_a_worker_without_its_redis_is_alive(redis_url: str) -> None:
    """It waits, so that nobody should restart it; one that does not answer over its Redis is not alive."""
    done = _health("alive", environment(PACS_TASKS_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0"))
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    assert "waits for its Redis" in done.stdout
    done = _health("alive", environment(PACS_TASKS_REDIS_URL=redis_url))
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not answer" in done.stderr


def _health(kind: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers.health", kind]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=15, check=False)
