"""The private server after things went wrong: killed processes, files left behind, a worker that cannot start."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pacs_tasks import embedded
from pacs_tasks.embedded.places import Lock, Places, State, holder, is_held
from pacs_tasks.privacy import LOG_LIMIT
from pacs_tasks.settings import Settings
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no private server on Windows")


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=5)


def _remember(url: str) -> None:
    """Write something, and wait until it is on disk."""
    with _client(url) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 5000)


def _kept(url: str) -> bool:
    try:
        with _client(url) as client:
            return bool(client.get("kept") == "yes")
    except redis.RedisError:
        return False


def _pid(path: Path) -> int:
    pid = holder(path)
    assert pid is not None, f"nobody holds {path.name}"
    return pid


def _kill(path: Path) -> None:
    pid = _pid(path)
    os.kill(pid, signal.SIGKILL)
    # Another one may hold it at once.
    wait_until(lambda: holder(path) != pid, 10, f"the end of the holder of {path.name}")


def _workers(settings: Settings) -> list[int]:
    log = Places.of(settings).log("supervisor").read_text()
    return [int(pid) for pid in re.findall(r"worker (\d+) started", log)]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_supervisor_is_replaced(settings: Settings) -> None:
    """After kill -9 of the supervisor its worker ends, and the next command finds its jobs at the same URL."""
    places = Places.of(settings)
    with embedded.attach(settings) as url:
        _remember(url)
        (worker,) = wait_until(lambda: _workers(settings), 10)
        assert embedded.failure(settings) == ""
        orphan = _pid(places.server_lock)
        _kill(places.supervisor_lock)
        assert "Run the command again" in embedded.failure(settings), "who waits is told"
    with embedded.attach(settings) as again:
        assert again == url
        assert _kept(again)
        assert _pid(places.server_lock) != orphan
    wait_until(lambda: not _alive(orphan), 5, "the end of the orphaned server")
    wait_until(lambda: not _alive(worker), 30, "the end of the orphaned worker")


def test_killed_server_is_started_again(settings: Settings) -> None:
    """After kill -9 of the server a command that is attached finds it again, with everything in it."""
    places = Places.of(settings)
    with embedded.attach(settings) as url:
        _remember(url)
        _kill(places.server_lock)
        wait_until(lambda: _kept(url), 10, "the server at its old URL")
        with embedded.attach(settings) as again:
            assert again == url


def test_everything_killed_is_healed(settings: Settings) -> None:
    """After a power cut the state file tells of a server that is gone; the next command starts a new one."""
    places = Places.of(settings)
    with embedded.attach(settings) as url:
        _remember(url)
    _kill(places.supervisor_lock)
    _kill(places.server_lock)
    assert places.state().ready
    with embedded.attach(settings) as again:
        assert _kept(again)


def _remove(places: Places) -> None:
    shutil.rmtree(places.data_dir)


def _rename(places: Places) -> None:
    places.data_dir.rename(places.data_dir.with_name("renamed"))


def _kill_supervisor(places: Places) -> None:
    os.kill(_pid(places.supervisor_lock), signal.SIGKILL)


def _kill_supervisor_and_guard(places: Places) -> None:
    for pid in (_pid(places.supervisor_lock), _pid(places.server_lock)):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("loss", [_remove, _rename, _kill_supervisor, _kill_supervisor_and_guard])
def test_nothing_outlives_its_owner(settings: Settings, loss: Callable[[Places], None]) -> None:
    """Whatever becomes of files and processes, no server stays with patient data in its memory, and no worker."""
    if loss is _kill_supervisor_and_guard and sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    places = Places.of(settings)
    with embedded.attach(settings) as url, _client(url) as client:
        server = client.info("server")["process_id"]
        (worker,) = wait_until(lambda: _workers(settings), 10)
        owners = [_pid(places.supervisor_lock), _pid(places.server_lock)]
    loss(places)
    for pid in (*owners, server, worker):
        wait_until(lambda pid=pid: not _alive(pid), 60, f"the end of process {pid}")  # type: ignore[misc]


def test_new_directory_at_the_same_path_is_left_alone(settings: Settings) -> None:
    """A supervisor whose directory was removed writes nothing into the one that another supervisor has there."""
    places = Places.of(settings)
    with embedded.attach(settings):
        first = _pid(places.supervisor_lock)
    shutil.rmtree(places.data_dir)
    with embedded.attach(settings) as url:
        wait_until(lambda: not _alive(first), 60, "the end of the first supervisor")
        assert places.state() == State(url=url, ready=True)
        assert embedded.failure(settings) == ""


def test_stop_ends_an_orphan(settings: Settings) -> None:
    """Stop ends a server whose supervisor was killed."""
    places = Places.of(settings)
    with embedded.attach(settings):
        pass
    _kill(places.supervisor_lock)
    assert embedded.stop(settings, timeout=1)
    assert not is_held(places.server_lock)


def test_taken_port_is_given_up(settings: Settings) -> None:
    """If another program has the server's old port by now, the server takes another one and keeps its data."""
    with embedded.attach(settings) as url:
        _remember(url)
    embedded.stop(settings)
    port = int(url.rpartition(":")[2].partition("/")[0])
    with socket.create_server(("127.0.0.1", port)), embedded.attach(settings) as again:
        assert again != url
        assert _kept(again)


def test_foreign_process_is_never_signalled(settings: Settings) -> None:
    """A pid in a file that nobody locks is no reason to signal anybody."""
    places = Places.of(settings)
    places.make()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        for path in (places.supervisor_lock, places.server_lock):
            path.write_text(str(bystander.pid))
        places.write_state(State(url="redis://:x@127.0.0.1:1/0", ready=True))
        assert embedded.stop(settings)
        with embedded.attach(settings):
            pass
        assert bystander.poll() is None
        bystander.communicate(b"\n", timeout=10)
        assert bystander.returncode == 0


def test_dead_worker_is_started_again(settings: Settings) -> None:
    """A worker that is killed is replaced, and nothing of it stays behind."""
    with embedded.attach(settings):
        (first,) = wait_until(lambda: _workers(settings), 10)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(_workers(settings)) > 1, 10, "another worker")
        assert embedded.failure(settings) == ""


def test_worker_that_cannot_start_says_so(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few attempts the reason is there for a command that waits, and in the log; then all ends by itself."""
    broken = tmp_path / "broken" / "workers"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")
    (broken / "__main__.py").write_text("raise RuntimeError('this worker is broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    places = Places.of(settings)
    with embedded.attach(settings):
        reason = wait_until(lambda: embedded.failure(settings), 120, "a reason")
        assert "this worker is broken" in reason
        assert "this worker is broken" in places.log("worker").read_text()
        assert len(_workers(settings)) == 3
    wait_until(lambda: not is_held(places.supervisor_lock), 20, "the end of the supervisor")
    assert "this worker is broken" in embedded.failure(settings)
    monkeypatch.delenv("PYTHONPATH")
    with embedded.attach(settings):
        assert embedded.failure(settings) == ""


def test_long_log_is_rotated(settings: Settings) -> None:
    """A log that has grown too long moves aside, and whoever writes to it goes on."""
    places = Places.of(settings)
    places.make()
    log = places.log("worker")
    with log.open("ab") as writer:
        writer.write(b"old\n")
        writer.truncate(LOG_LIMIT + 1)
        writer.flush()
        places.rotate()
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    old = log.with_name("worker.log.1").stat()
    assert old.st_size == LOG_LIMIT + 1
    assert sys.platform == "win32" or old.st_mode & 0o777 == 0o600


def test_lock_ends_with_its_last_holder(tmp_path: Path) -> None:
    """A shared lock keeps an exclusive one out until the last of its holders is gone."""
    path = tmp_path / "lock"
    with Lock(path) as one, Lock(path) as two:
        assert one.acquire(shared=True)
        assert two.acquire(shared=True)
        with Lock(path) as third:
            assert not third.acquire()
            one.close()
            assert not third.acquire(timeout=0.05)
            two.close()
            assert third.acquire()
