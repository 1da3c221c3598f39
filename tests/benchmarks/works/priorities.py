"""What is urgent goes first, and what is not still goes: files and jobs of several priorities at one PACS."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pacs_tasks import Job, PacsClient, RemoteAE, StoreDirectoryRequest, StoreRequest
from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.request import Priority
from tests.benchmarks.evidence import check_claims, instances
from tests.benchmarks.files import TEN_THOUSAND, Files
from tests.benchmarks.fleet import default_fleet
from tests.benchmarks.line import line_to
from tests.benchmarks.measuring import Bar, Bench, BenchError, Contestant, Figure, Work
from tests.support import peers
from tests.support.dicom_files import write_series
from tests.support.waiting import wait_until

#: Seconds that the PACS takes for an instance, also in the small form, where files are few. It accepts so few
#: associations that the job fills them for minutes.
_EACH, _SMALL_EACH = 0.02, 0.3
_ASSOCIATIONS: Final = 4
#: Urgent files, one after the other, and the longest that one is waited for, in seconds.
_URGENT: Final = 5
_LIMIT: Final = 120.0
#: Seconds for which two jobs are compared, after the second one has begun.
_COMPARED: Final = 20.0
_STAT: Final = "STAT file"
_SHARE: Final = "share of the bulk job"


def _enqueue(client: PacsClient, remote: RemoteAE, files: Files, priority: Priority) -> Job:
    """A job that has begun."""
    request = StoreDirectoryRequest(remote=remote, directory=str(files.directory), priority=priority)
    job = client.enqueue(request)
    wait_until(lambda: job.progress().counters.recorded, _LIMIT, "the first outcome of a job")
    return job


def _end(who: str, directory: Path, *jobs: Job) -> None:
    """Cancel jobs; the peer must hold what the ledger calls sent."""
    for job in jobs:
        job.cancel()
        job.wait(_LIMIT)
        check_claims(who, job, instances(directory))


def _urgent(bench: Bench) -> Contestant:
    def run() -> Mapping[str, Figure]:
        files = bench.files(TEN_THOUSAND)
        with (
            bench.room() as room,
            bench.shared(default_fleet).client() as client,
            peers.storescp(room, "STORESCP", "--fork") as peer,
            line_to(peer.port, room, _SMALL_EACH if bench.small else _EACH) as line,
        ):
            remote = peer.remote.model_copy(update={"port": line.port, "max_associations": _ASSOCIATIONS})
            job = _enqueue(client, remote, files, Priority.NORMAL)
            paths = write_series(room / "urgent", _URGENT, study=2)
            seconds = [_until_there(client, remote, path, peer.directory) for path in paths]
            _end(_STAT, peer.directory, job)
            return {_STAT: Figure(max(seconds))}

    return Contestant(_STAT, run, once=True)


def _until_there(client: PacsClient, remote: RemoteAE, path: Path, directory: Path) -> float:
    """Seconds from enqueueing a file until the PACS has written it, by the time of its file there."""
    before = {each.name for each in directory.iterdir()}
    began = time.time()
    job = client.enqueue(StoreRequest(remote=remote, path=str(path), priority=Priority.STAT))
    job.wait(_LIMIT)
    if not job.outcome():
        raise BenchError(f"the file was not sent: {job.outcome()!r:.500}")
    uid = read_instance(str(path)).sop_instance_uid
    there = [each for each in directory.iterdir() if each.name not in before and uid in each.name]
    return min(each.stat().st_mtime for each in there) - began


def _beside(bench: Bench) -> Contestant:
    def run() -> Mapping[str, Figure]:
        files = bench.files(TEN_THOUSAND)
        with (
            bench.room() as room,
            bench.shared(default_fleet).client() as client,
            peers.storescp(room, "STORESCP", "--fork") as peer,
            line_to(peer.port, room, _SMALL_EACH if bench.small else _EACH) as line,
        ):
            remote = peer.remote.model_copy(update={"port": line.port, "max_associations": _ASSOCIATIONS})
            jobs = [_enqueue(client, remote, files, each) for each in (Priority.BULK, Priority.NORMAL)]
            # Of a few files, so many may be there before the second job begins that none are left.
            before = [0, 0] if bench.small else [job.progress().counters.recorded for job in jobs]
            time.sleep(1.0 if bench.small else _COMPARED)
            bulk, normal = (job.progress().counters.recorded - at for job, at in zip(jobs, before, strict=True))
            _end(_SHARE, peer.directory, *jobs)
            return {_SHARE: Figure(bulk / max(1, bulk + normal), "")}

    return Contestant(_SHARE, run, once=True)


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    yield [_urgent(bench), _beside(bench)]


WORK: Final = Work(
    "stat",
    (
        "10,000 files on their way to a PACS of 20 ms an instance",
        "正在向每实例 20 毫秒的 PACS 发送 10,000 个文件",
    ),
    (TEN_THOUSAND,),
    _scene,
    (
        Bar(
            "stat",
            _STAT,
            (),
            5,
            ("a STAT file is there after, longest of 5", "STAT 文件到达的时间，5 次中最长"),
            at_least=False,
            unit="s",
        ),
        Bar(
            "bulk", _SHARE, (), 0.05, ("share of a bulk job beside a normal one", "bulk 任务与 normal 任务并行时的份额")
        ),
    ),
    scheduling=True,
)
