"""Real workers: the processes that a fleet runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from pacs_tasks.connection import connect
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet import receivers
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, Process, environment, started


@contextmanager
def _running(
    command: Sequence[str], log: Path, ready: Callable[[Process], bool], env: Mapping[str, str], root: str = str(ROOT)
) -> Iterator[Process]:
    """A process of a fleet, killed in the end: in good order, a worker takes seconds. A test that asks how one ends
    ends it itself.
    """
    with started(command, log, ready, env=env, cwd=Path(root), timeout=60, end_timeout=20) as process:
        yield process
        process.kill()


@contextmanager
def worker(
    redis_url: str,
    directory: Path,
    name: str = "worker",
    *,
    concurrency: int = 2,
    pool: str = "prefork",
    level: str = "INFO",
    options: str = "--without-mingle",
    root: str = str(ROOT),
    **settings: str,
) -> Iterator[Process]:
    """A ``python -m workers`` that is ready; ``settings`` are ``PACS_TASKS_*`` variables in full.

    ``options`` are more of its own; by default it does not wait a second for other workers to greet it. ``root`` holds
    its packages.
    """
    command = [sys.executable, "-m", "workers", "--hostname", f"{name}@%h"]
    command += ["--concurrency", str(concurrency), "--pool", pool, "--loglevel", level]
    command += options.split()
    env = environment(PACS_TASKS_REDIS_URL=redis_url, PACS_TASKS_DATA_DIR=str(directory / "data"), **settings)
    log = directory / f"{name}.log"
    with _running(command, log, lambda process: " ready." in process.said(), env, root) as process:
        yield process


@contextmanager
def flower(
    redis_url: str, directory: Path, login: str, log_level: str = "info", *options: str, kill: bool = True
) -> Iterator[str]:
    """Flower behind ``login`` (``user:password``), with more ``options`` of its own; gives its address.

    Unless ``kill`` is set, it ends in good order.
    """
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "pacs_tasks.app", "flower", "--address=127.0.0.1"]
    command += [f"--port={port}", "--conf=workers/flowerconfig.py", f"--logging={log_level}"]
    env = environment(
        PACS_TASKS_REDIS_URL=redis_url,
        PACS_TASKS_DATA_DIR=str(directory / "data"),
        PACS_TASKS_FLOWER_BASIC_AUTH=login,
        PACS_TASKS_FLOWER_PORT=str(port),
    )
    command += [f"--basic-auth={login}", *options]
    with started(command, directory / "flower.log", lambda _: answers(port), env=env, cwd=ROOT, timeout=60) as process:
        yield f"http://127.0.0.1:{port}"
        if kill:
            process.kill()


def receiver_environment(
    redis_url: str, directory: Path, port: int, ae_title: str = "PACS_TASKS", **settings: str
) -> dict[str, str]:
    """The environment of a receiver at this port."""
    return environment(
        PACS_TASKS_REDIS_URL=redis_url,
        PACS_TASKS_DATA_DIR=str(directory / "data"),
        PACS_TASKS_RECEIVER_HOST="127.0.0.1",
        PACS_TASKS_RECEIVER_PORT=str(port),
        PACS_TASKS_RECEIVER_AE_TITLE=ae_title,
        **settings,
    )


@contextmanager
def receiver(
    redis_url: str, directory: Path, port: int, ae_title: str = "PACS_TASKS", **settings: str
) -> Iterator[Process]:
    """A receiver that C-MOVE may deliver to; ``settings`` are ``PACS_TASKS_*`` variables in full."""
    env = receiver_environment(redis_url, directory, port, ae_title, **settings)

    def ready(_: Process) -> bool:
        return answers(port) and is_announced(redis_url, ae_title, port)

    command = [sys.executable, "-m", "workers.receiver"]
    # Not killed: the next test would find it announced.
    with started(command, directory / "receiver.log", ready, env=env, cwd=ROOT, timeout=60) as process:
        yield process


def is_announced(redis_url: str, ae_title: str, port: int) -> bool:
    """Whether workers find a receiver, which listens before it says so; where Redis is away, it only listens.

    One of the same AE title that was killed is announced for a while after its end.
    """
    try:
        with connect(redis_url, 2) as client:
            return any((each.ae_title, each.port) == (ae_title.strip(), port) for each in receivers.running(client))
    except (BrokerUnavailableError, redis.RedisError):
        return True
