"""A process that has loaded our programs, and forks one whenever :mod:`tests.support.nursery` asks it to.

An order comes over the socket that it was given, with the three streams of the program and a socket of its own, over
which its id and its status go back. A script of :mod:`tests.support.script` orders over a connection of its own. Once
the socket of orders is closed, this process ends; what it forked goes on.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: What a worker, a receiver and a command load; the first of them says what pydicom must not load.
_LOADED: Final = (
    "pacs_tasks.metrics", "workers.receiver.service", "workers.transport",
    "celery.apps.worker", "celery.bin.worker", "celery.concurrency.prefork", "celery.events", "celery.loaders.app",
    "celery.worker.consumer", "celery.worker.control", "celery.worker.strategy", "kombu.pidbox", "billiard.heap",
    "billiard.popen_fork", "billiard.synchronize", "pacs_tasks.cli.program", "pacs_tasks.cli.running",
    "pacs_tasks.client", "pacs_tasks.layout", "pacs_tasks.spool", "pacs_tasks.journal.tracing",
)  # fmt: skip
#: What few tests start, and what it loads when the first of them starts it.
_LOADED_LATE: Final = {
    "pacs_tasks.serve": ("uvicorn", "pacs_tasks.client", "pacs_tasks.serve.application", "pacs_tasks.serve.protocol")
}
#: Rooms of which they load nearly all. The modules of tasks are left to each worker: one of them has memory that all
#: processes of a worker share.
_ROOMS: Final = ("pacs_tasks.dimse", "pacs_tasks.fleet", "pacs_tasks.ledger", "pacs_tasks.messages")
#: Loads numpy, which no worker has; a test looks for it.
_LEFT_OUT: Final = "pacs_tasks.dimse.files.decompress"
#: What stands before the id that a program reports; the status that follows later is a number alone.
ID: Final = b"id "
#: Bytes of an order at most: a packet of a Unix socket.
_LONGEST: Final = 150_000
#: Sockets and streams that come with one.
_STREAMS, _WITH_IT = 3, 4
#: Seconds until a script that has connected has ordered.
_SOON: Final = 5
#: Variables that programs read when they use them, beside our settings, and those that may differ in a shell.
_READ_LATE: Final = ("XDG_CONFIG_HOME",)
_OF_SHELLS: Final = ("PATH", "HOME", "XDG_DATA_HOME", "PWD", "OLDPWD", "SHLVL", "_")
#: Ours that is read before the program runs.
EARLY: Final = "PACS_TASKS_LANGUAGE"


@dataclass(frozen=True)
class Order:
    """A program to fork: ``-m MODULE`` or a script, with its arguments. A session of its own can be killed as one."""

    command: list[str]
    directory: str
    variables: dict[str, str]
    session: bool

    def become(self, own: int, streams: list[int]) -> None:
        """Make this process, which has just been forked, like one that was started anew; then report its id."""
        if self.session:
            os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(self.directory)
        os.environ.clear()
        os.environ.update(self.variables)
        os.write(own, ID + str(os.getpid()).encode())
        os.closerange(_STREAMS, os.sysconf("SC_OPEN_MAX"))

    def run(self) -> None:
        """Run the program; what it raises ends the process as it would end any Python."""
        if self.command[0] == "-m":
            _, module, *arguments = self.command
            sys.path[0], sys.argv = self.directory, [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.path[0], sys.argv = str(Path(self.command[0]).parent), self.command
            runpy.run_path(self.command[0], run_name="__main__")


def lasting(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that a program has had since its start."""
    return {
        name: value
        for name, value in variables.items()
        if name == EARLY or not (name in _READ_LATE or name.startswith(("PACS_TASKS_", "PYTEST_")))
    }


def _suits_script(variables: Mapping[str, str]) -> bool:
    """Whether a fork of this process can run what a shell starts with these variables."""
    theirs, own = (
        {name: value for name, value in lasting(each).items() if name not in _OF_SHELLS}
        for each in (variables, os.environ)
    )
    return theirs == own


def _load() -> None:
    for name in _LOADED:
        importlib.import_module(name)
    for room in map(importlib.import_module, _ROOMS):
        for each in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if each.name != _LEFT_OUT:
                importlib.import_module(each.name)
    # No collection touches what all share, which would copy it.
    gc.collect()
    gc.freeze()


def serve(orders: socket.socket, scripts: socket.socket) -> tuple[Order, list[int]] | None:
    """Fork what is ordered, and report ends; in each fork, return the order, and its own socket and streams.

    Returns None when nobody orders any more.
    """
    running: dict[int, tuple[int, socket.socket]] = {}
    with orders, scripts, selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        selector.register(scripts, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in running:
                    _report(selector, key.fd, *running.pop(key.fd))
                    continue
                received = _of_script(scripts) if key.fileobj is scripts else _received(orders, _WITH_IT)
                if received is None and key.fileobj is orders:
                    return None
                if received is None:
                    continue
                order, (own, *streams) = received
                _load_late(order.command)
                if (pid := os.fork()) == 0:
                    for _, end in running.values():
                        end.close()
                    return order, [own, *streams]
                for stream in streams:
                    os.close(stream)
                running[handle := os.pidfd_open(pid)] = pid, socket.socket(fileno=own)
                selector.register(handle, selectors.EVENT_READ)


def _load_late(command: list[str]) -> None:
    for module in {*command} & {*_LOADED_LATE}:
        for name in _LOADED_LATE[module]:
            # The fork says what is wrong, and others do without it.
            with suppress(Exception):
                importlib.import_module(name)


def _received(orders: socket.socket, most: int) -> tuple[Order, list[int]] | None:
    """An order and the handles that came with it; None where the other end is closed."""
    packet, handles, *_ = socket.recv_fds(orders, _LONGEST, most)
    return (Order(**json.loads(packet)), handles) if packet else None


def _of_script(scripts: socket.socket) -> tuple[Order, list[int]] | None:
    """The order of a script, whose connection is its own socket; None where the script has to start the program."""
    connection, _ = scripts.accept()
    connection.settimeout(_SOON)
    try:
        received = _received(connection, _STREAMS)
    except (TimeoutError, ValueError):
        # It said nothing, or more than a packet holds.
        received = None
    if received is not None and _suits_script(received[0].variables):
        connection.settimeout(None)
        return received[0], [connection.detach(), *received[1]]
    connection.close()
    for stream in received[1] if received else ():
        os.close(stream)
    return None


def _report(selector: selectors.BaseSelector, handle: int, pid: int, end: socket.socket) -> None:
    selector.unregister(handle)
    os.close(handle)
    _, status = os.waitpid(pid, 0)
    # Whoever asked may be gone.
    with end, suppress(OSError):
        end.send(str(status).encode())


if __name__ == "__main__":
    _load()
    if (forked := serve(*(socket.socket(fileno=int(each)) for each in sys.argv[1:3]))) is not None:
        ordered, (its_own, *its_streams) = forked
        ordered.become(its_own, its_streams)
        ordered.run()
