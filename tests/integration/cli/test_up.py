"""The commands that run processes: up, worker, receiver, flower."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.embedded.places import Places, is_held
from pacs_tasks.outcome import Category
from tests.support.command import PACS_TASKS, Terminal
from tests.support.ports import answers, free_port
from tests.support.processes import Process, started
from tests.support.waiting import wait_until

#: Seconds in which the whole stack is ready on a busy machine.
START = 60.0


@pytest.fixture
def ports() -> tuple[int, int]:
    """Where the receiver and Flower will be."""
    return free_port(), free_port()


@pytest.fixture
def alone(tmp_path: Path, ports: tuple[int, int]) -> Terminal:
    """A machine without configuration, except for the ports that two tests would compete for."""
    settings = {
        "PACS_TASKS_RECEIVER_HOST": "127.0.0.1",
        "PACS_TASKS_RECEIVER_PORT": str(ports[0]),
        "PACS_TASKS_FLOWER_PORT": str(ports[1]),
        "PACS_TASKS_SERVE_PORT": "0",
        "PACS_TASKS_IDLE_TIMEOUT": "0",
        "PACS_TASKS_CONCURRENCY": "1",
    }
    return Terminal(tmp_path, settings=tuple(settings.items()), entry=PACS_TASKS)


@contextmanager
def _up(terminal: Terminal, *command: str, says: str = "Ready.") -> Iterator[Process]:
    log = terminal.directory / "up.log"
    with started(
        [*terminal.entry, *(command or ("up",))],
        log,
        lambda process: says in process.said(),
        env=terminal.environment(),
        cwd=terminal.directory,
        timeout=START,
        end_timeout=30,
    ) as process:
        yield process


def _children(process: Process) -> dict[str, int]:
    """The pids of the children by their module."""
    said = subprocess.run(
        ["ps", "-e", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    found = {}
    for pid, parent, arguments in (line.split(None, 2) for line in said.splitlines() if len(line.split(None, 2)) == 3):
        if int(parent) == process.pid and "lifeline" in arguments:
            found[arguments.split("lifeline ")[1].split()[0]] = int(pid)
    return found


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _flower(port: int, login: str = "") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/workers")
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def _nothing_left(terminal: Terminal, ports: tuple[int, int]) -> bool:
    places = Places(terminal.data_dir)
    return not any((is_held(places.supervisor_lock), is_held(places.server_lock), *map(answers, ports)))


def test_up_is_the_whole_stack_until_ctrl_c(alone: Terminal, ports: tuple[int, int]) -> None:
    """Without configuration, the receiver answers, Flower requires the printed login, and Ctrl-C ends everything."""
    with _up(alone) as process:
        said = process.said()
        outcome = echo(LocalAE(), RemoteAE(ae_title="PACS_TASKS", port=ports[0]), Timeouts.of(10))
        assert outcome.category is Category.SUCCESS
        assert f"AE title PACS_TASKS, port {ports[0]}" in said
        login = re.search(rf"http://127.0.0.1:{ports[1]}, user (\S+), password (\S+)", said)
        assert login is not None, said
        assert _flower(ports[1]) == 401
        assert _flower(ports[1], f"{login[1]}:{login[2]}") == 200
        children = list(_children(process).values())
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(40) == 0, process.said()
    assert _nothing_left(alone, ports)
    assert not any(map(_running, children))
    assert "Traceback" not in process.said()
    assert "ready." in Places(alone.data_dir).log("worker").read_text(), "the private worker served meanwhile"


def test_up_serves_a_fleet(alone: Terminal, ports: tuple[int, int], redis_url: str) -> None:
    """With a Redis the worker is a child whose output is shown, and SIGTERM ends all."""
    with _up(replace(alone, redis_url=redis_url)) as process:
        wait_until(lambda: re.search(r"worker +\| .* ready\.", process.said()), START, "the worker")
        assert set(_children(process)) == {"workers", "workers.receiver", "workers.flowerconfig", "pacs_tasks.serve"}
        process.popen.terminate()
        assert process.popen.wait(40) == 0, process.said()
    assert _nothing_left(alone, ports)
    assert not (alone.data_dir / "embedded").exists(), "no private server where there is a Redis"


def test_up_says_which_child_died(alone: Terminal, ports: tuple[int, int], redis_url: str) -> None:
    """If one child dies, the others end, and exit code and message report it."""
    with _up(replace(alone, redis_url=redis_url)) as process:
        children = _children(process)
        os.kill(children["workers.receiver"], signal.SIGKILL)
        assert process.popen.wait(60) == 1
        assert "The receiver ended with -9. Its last lines:" in process.said()
    assert _nothing_left(alone, ports)
    assert not any(map(_running, children.values()))


def test_children_end_with_a_killed_up(alone: Terminal, ports: tuple[int, int], redis_url: str) -> None:
    """After kill -9 of the command its children end by themselves."""
    with _up(replace(alone, redis_url=redis_url)) as process:
        children = _children(process)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(_running, children.values())), 30, "the end of the children")
    assert _nothing_left(alone, ports)


def test_up_tells_of_a_worker_that_cannot_start(alone: Terminal, ports: tuple[int, int]) -> None:
    """A private worker that does not start ends the command with its reason."""
    broken = alone.directory / "broken" / "workers"
    broken.mkdir(parents=True)
    for name in ("__init__", "receiver", "flowerconfig"):
        (broken / f"{name}.py").write_text(
            "import threading; threading.Event().wait(60)\n" if name != "__init__" else ""
        )
    (broken / "__main__.py").write_text("raise RuntimeError('this worker is broken')\n")
    terminal = replace(alone, settings=(*alone.settings, ("PYTHONPATH", str(broken.parent))))
    result = terminal.run("up", timeout=90)
    assert result.code == 1
    assert "private worker does not start" in result.stderr
    assert "this worker is broken" in result.stderr
    assert _nothing_left(alone, ports)


@pytest.mark.parametrize("which", [0, 1])
def test_taken_port_is_one_sentence(alone: Terminal, ports: tuple[int, int], which: int) -> None:
    """A port in use is named, with the variable that changes it."""
    with socket.create_server(("127.0.0.1", ports[which])):
        result = alone.run("up", timeout=30)
    assert result.code == 2
    assert f"127.0.0.1:{ports[which]}" in result.stderr
    assert ("PACS_TASKS_RECEIVER_PORT", "PACS_TASKS_FLOWER_PORT")[which] in result.stderr
    assert not (alone.data_dir / "embedded").exists(), "nothing was started"


def test_silent_redis_is_one_sentence(alone: Terminal, redis_url: str) -> None:
    """It is reported within 5 s after the start of the command."""
    start = replace(alone, redis_url=redis_url).run("jobs").seconds
    result = replace(alone, redis_url=f"redis://127.0.0.1:{free_port()}/0").run("up", timeout=30)
    assert result.code == 1
    assert "does not answer" in result.stderr
    assert result.seconds - start < 5


def test_flower_wants_a_login(alone: Terminal) -> None:
    """Flower does not start without one."""
    result = alone.run("flower", timeout=30)
    assert result.code == 2
    assert "PACS_TASKS_FLOWER_BASIC_AUTH" in result.stderr


#: A program's first import, by ``sitecustomize``: when the transport is imported, the program is told to end while a
#: class is made.
_TOLD_TO_END = """
import os, signal, sys

class Told:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.SIGTERM)

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "kombu.transport.redis":
            sys.meta_path.remove(self)
            print("told to end", flush=True)
            type("Made", (), {"told": Told()})

sys.meta_path.insert(0, Watch())
"""


def test_flower_that_is_told_to_end_while_it_starts_ends_well(alone: Terminal, redis_url: str) -> None:
    """With 0 and without a traceback, at any point of its start."""
    (alone.directory / "sitecustomize.py").write_text(_TOLD_TO_END)
    more = (("PYTHONPATH", str(alone.directory)), ("PACS_TASKS_FLOWER_BASIC_AUTH", "user:password"))
    terminal = replace(alone, redis_url=redis_url, settings=(*alone.settings, *more))
    result = terminal.run("flower", timeout=60)
    assert result.code == 0, str(result)
    assert "told to end" in result.stdout


@pytest.mark.parametrize("fleet", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_worker_ends_when_told(alone: Terminal, redis_url: str, number: signal.Signals, fleet: bool) -> None:
    """A worker in the foreground serves the fleet or the private server, and ends on a signal."""
    terminal = replace(alone, redis_url=redis_url if fleet else None)
    with _up(terminal, "worker", says=" ready.") as process:
        process.popen.send_signal(number)
        # In a fleet the process is Celery's own, which answers Ctrl-C with 1.
        expected = 1 if fleet and number is signal.SIGINT else 0
        assert process.popen.wait(40) == expected, process.said()
    if not fleet:
        wait_until(lambda: not is_held(Places(alone.data_dir).supervisor_lock), 30, "the end of the private server")


@pytest.mark.parametrize("fleet", [True, False])
def test_receiver_ends_when_told(alone: Terminal, redis_url: str, ports: tuple[int, int], fleet: bool) -> None:
    """A receiver in the foreground prints what to configure in the PACS, answers, and ends with 0."""
    terminal = replace(alone, redis_url=redis_url if fleet else None)
    with _up(terminal, "receiver", says="Add this destination to your PACS") as process:
        assert f"AE title PACS_TASKS, host 127.0.0.1, port {ports[0]}" in process.said()
        assert echo(LocalAE(), RemoteAE(port=ports[0]), Timeouts.of(10)).category is Category.SUCCESS
        process.popen.terminate()
        assert process.popen.wait(20) == 0, process.said()


if sys.platform == "win32":
    pytestmark = pytest.mark.skip(reason="Celery's workers do not run on Windows")
