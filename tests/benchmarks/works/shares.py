"""Jobs share a PACS evenly, and a silent PACS slows no other down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from pacs_tasks import Job, PacsClient, RemoteAE, StoreDirectoryRequest
from tests.benchmarks.evidence import check_files
from tests.benchmarks.files import SMALL_CT, Files
from tests.benchmarks.fleet import default_fleet, took
from tests.benchmarks.line import line_to
from tests.benchmarks.measuring import Bar, Bench, BenchError, Contestant, Figure, Work
from tests.chaos.pacs import Pacs
from tests.support import peers
from tests.support.peers import Directory
from tests.support.ports import connections
from tests.support.waiting import wait_until

#: Seconds that the PACS takes for an instance.
_EACH: Final = 0.02
#: Seconds for a job, and, in the small form, for a silent PACS; else it has what the default setting gives it.
_LIMIT: Final = 300.0
_PATIENCE: Final = 2.0
_APART: Final = "apart at the end"
_ALONE: Final = "alone"
_BESIDE: Final = "beside a silent PACS"


@contextmanager
def _peer(room: Path) -> Iterator[tuple[Directory, RemoteAE]]:
    """A PACS that takes 20 ms for an instance, on each association."""
    with peers.storescp(room, "STORESCP", "--fork") as peer, line_to(peer.port, room, _EACH) as line:
        yield peer, peer.remote.model_copy(update={"port": line.port})


def _enqueue(client: PacsClient, remote: RemoteAE, files: Files, timeout: float | None = None) -> Job:
    return client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(files.directory), timeout=timeout))


def _whole(who: str, job: Job, files: Files) -> None:
    progress = job.wait(_LIMIT)
    if progress.counters.success != files.count:
        raise BenchError(f"{who}: {progress.counters.success} of {files.count} instances are recorded")


def _two_jobs(bench: Bench) -> Contestant:
    def run() -> Mapping[str, Figure]:
        files = bench.files(SMALL_CT)
        with (
            bench.room() as room,
            bench.shared(default_fleet).client() as client,
            _peer(room) as (peer, remote),
        ):
            jobs = [_enqueue(client, remote, files) for _ in range(2)]
            for job in jobs:
                _whole(_APART, job, files)
            check_files(_APART, files, peer.directory)
            ends = sorted(job.progress().finished or 0.0 for job in jobs)
            return {_APART: Figure((ends[1] - ends[0]) / (ends[1] - jobs[0].progress().created), "")}

    return Contestant(_APART, run)


def _one_job(bench: Bench, name: str, *, beside_silent: bool) -> Contestant:
    def run() -> Mapping[str, Figure]:
        files = bench.files(SMALL_CT)
        with (
            bench.room() as room,
            bench.shared(default_fleet).client() as client,
            _peer(room) as (peer, remote),
            ExitStack() as stack,
        ):
            waiting: list[Job] = []
            if beside_silent:
                silent = Pacs(stack, room / "silent")
                silent.start()
                silent.faults(silence="associated")
                waiting.append(_enqueue(client, silent.remote, files, _PATIENCE if bench.small else None))
                wait_until(lambda: connections(silent.port), _LIMIT, "the job to the silent PACS")
            job = _enqueue(client, remote, files)
            _whole(name, job, files)
            check_files(name, files, peer.directory)
            for each in waiting:
                each.cancel()
                each.wait(_LIMIT)
            return {name: Figure(took(job.progress()))}

    return Contestant(name, run)


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    yield [
        _two_jobs(bench),
        _one_job(bench, _ALONE, beside_silent=False),
        _one_job(bench, _BESIDE, beside_silent=True),
    ]


WORK: Final = Work(
    "fair",
    (
        "jobs of SMALL2000 to a PACS of 20 ms an instance",
        "向每实例 20 毫秒的 PACS 发送 SMALL2000 的任务",
    ),
    (SMALL_CT,),
    _scene,
    (
        Bar(
            "apart",
            _APART,
            (),
            0.2,
            (
                "two at once: between their ends, as a share of the whole time",
                "两个任务同时进行：结束时间之差占总时间的比例",
            ),
            at_least=False,
        ),
        Bar(
            "silent",
            _ALONE,
            (_BESIDE,),
            0.9,
            (
                "rate beside a job to a silent PACS, as a share of that alone",
                "有任务发往无响应的 PACS 时的速率，与单独运行之比",
            ),
            own=True,
        ),
    ),
    scheduling=True,
)
