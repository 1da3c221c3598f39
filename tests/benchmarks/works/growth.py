"""What grows with the work, and what must not: time and Redis with the files, a worker with the size of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import redis

from tests.benchmarks.evidence import check_files, check_ignored
from tests.benchmarks.files import HUNDRED_THOUSAND, ONE_MB, TEN_THOUSAND, TWO_GB, Files
from tests.benchmarks.fleet import SEND_DIR, Fleet, fleet
from tests.benchmarks.measuring import Bar, Bench, BenchError, Contestant, Figure, Work
from tests.benchmarks.memory import peak_of
from tests.benchmarks.works.sending import IGNORING
from tests.support import peers

_DETACHED: Final = "pacs-tasks send-dir --detach"
_REDIS: Final = "most memory of Redis"
_OWN: Final = "memory of the worker"
_MAPPED: Final = "mapped files"


def _of(files: str, what: str) -> str:
    return f"{files}: {what}"


def _many(bench: Bench, files: Files) -> Contestant:
    """Send so many small files from an empty Redis on; then a job of the same files that is only enqueued."""

    def run() -> Mapping[str, Figure]:
        with (
            bench.room() as room,
            fleet(room) as ours,
            peers.storescp(room, "STORESCP", "--fork", *IGNORING) as peer,
        ):
            before = _redis_memory(ours, "used_memory")
            figures = ours.sender(_of(files.name, SEND_DIR)).send(peer, files)
            most = _redis_memory(ours, "used_memory_peak")
            check_ignored(SEND_DIR, files, peer)
            return {
                **figures,
                _of(files.name, _REDIS): Figure(most - before, "MB"),
                _of(files.name, _DETACHED): Figure(_until_id(ours, peer, files)),
            }

    return Contestant(_of(files.name, SEND_DIR), run)


def _redis_memory(ours: Fleet, field: str) -> float:
    with redis.Redis.from_url(ours.url) as client:
        return float(client.info("memory")[field]) / 1e6


def _until_id(ours: Fleet, peer: peers.Peer, files: Files) -> float:
    """Seconds until a detached command has printed the job's id and ended; the job is cancelled then."""
    detached = ours.terminal.run("send-dir", "--dir", files.directory, "--detach", *peer.options)
    cancelled = ours.terminal.run("cancel", detached.stdout.strip())
    if detached.code or cancelled.code:
        raise BenchError(f"a detached job did not begin or end: {detached} {cancelled}")
    return detached.seconds


def _memory(bench: Bench, files: Files) -> Contestant:
    """Send one instance by a worker that has sent nothing yet, and look at its processes meanwhile."""

    def run() -> Mapping[str, Figure]:
        with bench.room() as room, fleet(room) as ours, peers.storescp(room) as peer:
            with peak_of(ours.worker) as peak:
                figures = ours.sender(_of(files.name, SEND_DIR)).send(peer, files)
            check_files(SEND_DIR, files, peer.directory)
            return {
                **figures,
                _of(files.name, _OWN): Figure(peak.anonymous, "MB"),
                _of(files.name, _MAPPED): Figure(peak.mapped, "MB"),
            }

    return Contestant(_of(files.name, _OWN), run)


@contextmanager
def _many_files(bench: Bench) -> Iterator[Sequence[Contestant]]:
    yield [_many(bench, bench.files(name)) for name in (TEN_THOUSAND, HUNDRED_THOUSAND)]


@contextmanager
def _large_file(bench: Bench) -> Iterator[Sequence[Contestant]]:
    yield [_memory(bench, bench.files(name)) for name in (ONE_MB, TWO_GB)]


WORKS: Final = (
    Work(
        "many-files",
        ("`send-dir` of 100,000 files of 4 KB", "`send-dir` 发送 100,000 个 4 KB 的文件"),
        (HUNDRED_THOUSAND, TEN_THOUSAND),
        _many_files,
        (
            Bar(
                "time",
                _of(HUNDRED_THOUSAND, SEND_DIR),
                (_of(TEN_THOUSAND, SEND_DIR),),
                11,
                ("time for 10,000 files", "10,000 个文件所需的时间"),
                at_least=False,
            ),
            Bar(
                "redis",
                _of(HUNDRED_THOUSAND, _REDIS),
                (),
                64,
                ("most memory of Redis", "Redis 内存峰值"),
                at_least=False,
                unit="MB",
            ),
            Bar(
                "id",
                _of(HUNDRED_THOUSAND, _DETACHED),
                (),
                1,
                ("job's id printed after", "打印作业ID前的时间"),
                at_least=False,
                unit="s",
            ),
        ),
    ),
    Work(
        "large-file",
        ("`send-dir` of one instance of 2 GB: memory of the worker", "`send-dir` 发送一个 2 GB 的实例：工作进程的内存"),
        (TWO_GB, ONE_MB),
        _large_file,
        (
            Bar(
                "memory",
                _of(TWO_GB, _OWN),
                (_of(ONE_MB, _OWN),),
                1.2,
                ("the same for 1 MB", "1 MB 的实例"),
                at_least=False,
            ),
        ),
    ),
)
