"""Where one round is played: a Redis, workers, a PACS, files, and the injuries that are done to them."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar, cast

import redis

from pacs_tasks import Job, PacsClient
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.outcome import Progress
from pacs_tasks.settings import Settings
from tests.chaos.pacs import Pacs
from tests.support import workers
from tests.support.ports import connections, free_port
from tests.support.processes import Process
from tests.support.redis_server import RedisServer, redis_server

T = TypeVar("T")

#: Seconds that a round may take from its first job on.
LIMIT: Final = 180.0
#: Child processes of a worker.
CHILDREN: Final = 2
#: Seconds that a PACS takes for all its answers together, so that a round has moments to choose from.
_LENGTH: Final = 12.0
#: Seconds between two looks, and between two for a moment that soon passes.
_LOOK: Final = 0.05
CLOSE_LOOK: Final = 0.005


class RoundError(AssertionError):
    """Something is not as it must be: the round failed."""


class InterruptedRoundError(Exception):
    """The whole run is to end."""


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Worker:
    """A worker of the fleet and its processes."""

    name: str
    process: Process

    def children(self) -> list[int]:
        """The processes of its pool; not those that have died, which it may not have noticed yet."""
        pid = self.process.pid
        try:
            found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return []
        return [each for each in found if _runs(each)]

    def kill(self) -> None:
        """End it and its children at once."""
        self.process.kill()

    def pause(self) -> None:
        """Let the worker do nothing any more; its children go on with what they have."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def terminate(self) -> None:
        """Ask it to end in good order."""
        os.kill(self.process.pid, signal.SIGTERM)


class Stage:
    """One round; a context manager.

    Parameters
    ----------
    directory
        Of this round alone.
    chance
        Decides everything that is left to it.
    files
        How many to send or to fetch.
    ending
        Is set when the whole run is to end.
    """

    def __init__(self, directory: Path, chance: random.Random, files: int, ending: threading.Event) -> None:
        self.directory, self.count = directory, files
        self.random = chance
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.workers: list[Worker] = []
        self.events: list[str] = []
        self.strikes = 0
        self.struck: float | None = None
        self.recovery: float | None = None
        self.stack = ExitStack()
        self._ending = ending
        self._began = time.monotonic()
        self._deadline = self._began + 2 * LIMIT
        self._redis: RedisServer

    def __enter__(self) -> Self:
        try:
            self.start_redis()
            self.client = self.stack.enter_context(PacsClient(self.url, Settings(redis_url=self.url)))
            self.redis = self.stack.enter_context(redis.Redis(port=self.port, decode_responses=True, socket_timeout=5))
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        # Without the exception: what each process said lies in its log.
        self.stack.close()

    @property
    def pace(self) -> float:
        """Seconds that a PACS takes for each answer."""
        return _LENGTH / self.count

    # Who plays

    def start_redis(self) -> None:
        """Start the Redis, or start it again with what it has kept."""
        self._redis = self.stack.enter_context(redis_server(self.directory, self.port, durable=True))

    def kill_redis(self) -> None:
        self._redis.process.kill()

    def pause_redis(self) -> None:
        os.kill(self._redis.process.pid, signal.SIGSTOP)

    def wake_redis(self) -> None:
        os.kill(self._redis.process.pid, signal.SIGCONT)

    def start_workers(self, count: int = 3, **settings: str) -> list[Worker]:
        """Start so many more workers, each of :data:`CHILDREN` processes."""
        for _ in range(count):
            name = f"worker{len(self.workers) + 1}"
            process = self.stack.enter_context(
                workers.worker(self.url, self.directory, name, concurrency=CHILDREN, **settings)
            )
            self.workers.append(Worker(name, process))
        return self.workers[-count:]

    def pacs(self, name: str = "pacs", **faults: object) -> Pacs:
        """Start a PACS."""
        pacs = Pacs(self.stack, self.directory / name)
        pacs.start()
        if faults:
            pacs.faults(**faults)
        return pacs

    # What is waited for

    def begins(self) -> None:
        """The first job is about to be enqueued: from here on time counts."""
        self._deadline = time.monotonic() + LIMIT

    def wait(self, condition: Callable[[], T | None], what: str, limit: float = LIMIT, look: float = _LOOK) -> T:
        """The first true value of ``condition``; a Redis that does not answer is no value.

        Raises
        ------
        RoundError
            If there is none within ``limit`` seconds, or before the end of the round.
        """
        deadline = min(time.monotonic() + limit, self._deadline)
        while True:
            value = quietly(condition)
            if value:
                return value
            if time.monotonic() >= deadline:
                raise RoundError(f"not in time: {what}")
            if self._ending.wait(look):
                raise InterruptedRoundError

    def pass_time(self, seconds: float) -> None:
        """Let a failure last."""
        if self._ending.wait(seconds):
            raise InterruptedRoundError

    def after(self, job: Job, least: float = 0.05, most: float = 0.7) -> int:
        """Wait for a random moment: when so many outcomes are recorded, between these shares of all files."""
        wanted = max(1, round(self.count * self.random.uniform(least, most)))
        return self.after_exactly(job, wanted)

    def after_exactly(self, job: Job, wanted: int) -> int:
        """Wait until so many outcomes are recorded; how many there are."""

        def there() -> Progress | None:
            progress = job.progress()
            if progress.state.finished:
                raise RoundError(f"the job was {progress.state} before it could be disturbed")
            return progress if progress.counters.recorded >= wanted else None

        return self.wait(there, f"{wanted} outcomes", look=CLOSE_LOOK).counters.recorded

    def ended(self, job: Job) -> Progress:
        """Wait for the end of a job, as one does who asks again when Redis was away."""

        def look() -> Progress | None:
            progress = job.progress()
            return progress if progress.state.finished else None

        progress = self.wait(look, "the end of the job")
        if self.struck is not None and progress.finished is not None:
            self.recovery = max(self.recovery or 0.0, progress.finished - self.struck)
        self.note(f"the job is {progress.state}")
        return progress

    # What is injured

    def note(self, what: str) -> None:
        """Say what happened, for whoever reads about this round."""
        self.events.append(f"{time.monotonic() - self._began:.2f} s: {what}")

    def strike(self, what: str, when: float | None = None) -> None:
        """Note a failure that is injected now, or was at a time in Unix seconds."""
        self.strikes += 1
        self.struck = min(self.struck or time.time(), when or time.time())
        self.note(what)

    def claims(self, job: Job) -> dict[str, tuple[str, int]]:
        """The claims on a job that are alive: what is claimed, to the worker's name and its process."""
        held = cast("dict[str, str]", self.redis.hgetall(f"pacs_tasks:job:{job.id}:claims"))
        found = {}
        for name, text in held.items():
            expiry, host, pid, *_ = text.split(" ")
            if float(expiry) > time.time():
                found[name] = (host, int(pid))
        return found

    def at_work(self, job: Job) -> int:
        """A random process that is at a part of the job now; the claim of one that died lives on for a while."""

        def alive() -> list[int]:
            children = {pid for worker in self.workers if worker.process.running() for pid in worker.children()}
            return sorted(children & {pid for _, pid in self.claims(job).values()})

        return self.random.choice(self.wait(alive, "a process at work"))

    def worker_of(self, pid: int) -> Worker:
        """The worker that a child belongs to."""
        for worker in self.workers:
            if worker.process.running() and pid in worker.children():
                return worker
        raise RoundError(f"no worker has the process {pid}")

    def freeze(self, pids: Collection[int], pacs: Pacs) -> int:
        """Stop processes that are to be killed; how many associations they have: what is under way may go again."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return connections(pacs.port, pids)

    def kill_child(self, pid: int) -> None:
        """Kill a process of a pool, and wait until it runs no more: it would count as one at work."""
        os.kill(pid, signal.SIGKILL)
        self.wait(lambda: not _runs(pid), "the end of the killed process")

    def logs_say(self, pattern: str) -> list[str]:
        """Lines of the workers' logs that match."""
        wanted = re.compile(pattern)
        return [line for each in self.workers for line in each.process.said().splitlines() if wanted.search(line)]


def quietly(condition: Callable[[], T | None]) -> T | None:
    """Its value; nothing while Redis does not answer."""
    try:
        return condition()
    except (redis.ConnectionError, redis.TimeoutError, BrokerUnavailableError):
        # A Redis that loads its file says so by a ConnectionError too (BusyLoadingError).
        return None
