"""Our contestant as users run it: Redis and workers that run already, commands timed as whole processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacs_tasks import PacsClient
from pacs_tasks.outcome import Progress
from pacs_tasks.settings import Settings
from tests.benchmarks.files import Files
from tests.benchmarks.measuring import BenchError, Figure
from tests.benchmarks.programs import LIMIT, Sender, once_started
from tests.support import workers
from tests.support.command import PACS_TASKS, Result, Terminal
from tests.support.peers import Peer
from tests.support.processes import Process
from tests.support.redis_server import RedisServer, redis_server

SEND_DIR: Final = "pacs-tasks send-dir"
#: AE title of the receiver.
RECEIVER: Final = "PACS_TASKS"


@dataclass(frozen=True)
class Fleet:
    """A Redis that keeps what it is told, a worker, and a command line that uses both."""

    redis: RedisServer
    worker: Process
    terminal: Terminal

    @property
    def url(self) -> str:
        return self.redis.url()

    def client(self) -> PacsClient:
        return PacsClient(self.url, Settings(redis_url=self.url))

    def sender(self, name: str = SEND_DIR) -> Sender:
        """``send-dir``: the whole process, and from enqueueing to the end of the job by Redis's clock."""

        def send(peer: Peer, files: Files) -> Mapping[str, Figure]:
            result, job = self.command(files, "send-dir", "--dir", files.directory, *peer.options)
            return {name: Figure(result.seconds), once_started(name): Figure(took(job))}

        return Sender(name, send)

    def command(self, files: Files, *arguments: object) -> tuple[Result, Progress]:
        """Run a command that moves all files; give how it ended, and its job.

        Raises
        ------
        BenchError
            If the ledger does not have an outcome of success for each file.
        """
        result = self.terminal.run(*arguments, timeout=LIMIT)
        with self.client() as client:
            job = client.jobs(1)[0]
        if result.code or job.counters.success != files.count:
            raise BenchError(
                f"{job.counters.success} of {files.count} instances of {files.name} are recorded: {result}"
            )
        return result, job


def took(job: Progress) -> float:
    """Seconds from enqueueing a job to its end."""
    assert job.finished is not None
    return job.finished - job.created


@contextmanager
def fleet(directory: Path, *, pool: str = "prefork", concurrency: int = 2) -> Iterator[Fleet]:
    """A fleet that has as many associations as its worker has processes or threads."""
    limit = str(concurrency)
    with default_fleet(directory, pool=pool, concurrency=concurrency, PACS_TASKS_MAX_ASSOCIATIONS=limit) as started:
        yield started


@contextmanager
def default_fleet(
    directory: Path, *, number: int = 1, pool: str = "prefork", concurrency: int = 2, **settings: str
) -> Iterator[Fleet]:
    """Redis and workers that are ready, with their files in a directory.

    How many associations they open is their own affair, without a setting.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(directory, durable=True))
        first, *_ = [
            stack.enter_context(
                workers.worker(redis.url(), directory, f"worker{each}", pool=pool, concurrency=concurrency, **settings)
            )
            for each in range(1, number + 1)
        ]
        yield Fleet(redis, first, Terminal(directory, redis.url(), entry=PACS_TASKS))
