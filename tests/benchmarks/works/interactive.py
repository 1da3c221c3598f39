"""How long people wait while a job of many files runs on the same two processes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

from pacs_tasks import (
    EchoRequest,
    FindRequest,
    Job,
    PacsClient,
    PreflightRequest,
    RemoteAE,
    StoreDirectoryRequest,
    StoreRequest,
    VerifyRequest,
)
from pacs_tasks.request import AnyRequest
from tests.benchmarks.evidence import check_claims
from tests.benchmarks.files import TEN_THOUSAND, Files
from tests.benchmarks.fleet import default_fleet
from tests.benchmarks.line import line_to
from tests.benchmarks.measuring import Bar, Bench, BenchError, Contestant, Figure, Work
from tests.chaos.pacs import Pacs
from tests.support import peers
from tests.support.ports import connections
from tests.support.waiting import wait_until

#: What is asked in turn, each at every remote, until so many rounds are done or so many seconds have passed.
_ROUNDS: Final = 12
_LONGEST: Final = 90.0
#: Seconds after which nobody waits any more.
_LIMIT: Final = 120.0
#: Seconds in which a job begins, and in which a cancelled one ends.
_PATIENCE: Final = 60.0


@dataclass(frozen=True)
class _Scene:
    """What the job's PACS does, in words of a title in English and in Chinese, and the milliseconds it takes."""

    words: tuple[str, str]
    milliseconds: int | None

    def name(self, of: str, where: str) -> str:
        return f"{self.words[0]}: {of} at {where}"

    @property
    def remotes(self) -> Sequence[str]:
        """Where interactive work goes: nobody waits for a PACS that is silent."""
        return (_OTHER,) if self.milliseconds is None else (_OTHER, _SAME)


_OTHER: Final = "another PACS"
_SAME: Final = "the same PACS"
_CHINESE: Final = {_OTHER: "另一台 PACS", _SAME: "同一台 PACS"}
_SCENES: Final = (
    _Scene(("a fast PACS", "快速 PACS"), 0),
    _Scene(("20 ms an instance", "每实例 20 毫秒"), 20),
    _Scene(("100 ms an instance", "每实例 100 毫秒"), 100),
    _Scene(("a silent PACS", "无响应的 PACS"), None),
)


class _Person:
    """Asks one remote for five things, again and again."""

    def __init__(self, client: PacsClient, remote: RemoteAE, path: Path) -> None:
        self._client = client
        self._sent = client.enqueue(StoreRequest(remote=remote, path=str(path)))
        self._sent.wait(_LIMIT)
        self._requests: Iterator[Callable[[], AnyRequest]] = cycle(
            [
                lambda: EchoRequest(remote=remote),
                lambda: FindRequest(remote=remote, keys={"PatientID": "P12345"}),
                lambda: PreflightRequest(remote=remote, paths=(str(path),)),
                lambda: StoreRequest(remote=remote, path=str(path)),
                lambda: VerifyRequest(remote=remote, job_id=self._sent.id),
            ]
        )

    def round(self) -> list[float]:
        """Seconds for each of the five."""
        return [self._seconds(next(self._requests)()) for _ in range(5)]

    def _seconds(self, request: AnyRequest) -> float:
        began = time.monotonic()
        job = self._client.enqueue(request)
        job.wait(_LIMIT)
        seconds = time.monotonic() - began
        if not job.outcome():
            raise BenchError(f"{request.task} did not succeed: {job.outcome()!r:.500}")
        return seconds


def _contestant(bench: Bench, scene: _Scene) -> Contestant:
    files = bench.files(TEN_THOUSAND)

    def run() -> Mapping[str, Figure]:
        ours = bench.shared(default_fleet)
        with bench.room() as room, bench.room() as other, ExitStack() as stack:
            idle = stack.enter_context(peers.orthanc(other, "OTHER")).remote
            held: Callable[[], set[str]]
            if scene.milliseconds is None:
                silent = Pacs(stack, room / "silent")
                silent.start()
                silent.faults(silence="associated")
                bulk, held = silent.remote, lambda: set(silent.held())
            else:
                peer = stack.enter_context(peers.orthanc(room))
                bulk, held = peer.remote, lambda: set(peer.instances())
                if scene.milliseconds:
                    line = stack.enter_context(line_to(peer.port, room, scene.milliseconds / 1000))
                    bulk = bulk.model_copy(update={"port": line.port})
            client = stack.enter_context(ours.client())
            remotes = {_OTHER: idle, _SAME: bulk}
            path = next(files.directory.iterdir())
            asking = {where: _Person(client, remotes[where], path) for where in scene.remotes}
            jobs = [_begin(client, bulk, files)]
            taken = _asked(bench, asking, partial(_keep_busy, client, bulk, files, jobs))
            for job in jobs:
                job.cancel()
                job.wait(_PATIENCE)
                check_claims(scene.words[0], job, held())
            return {
                scene.name(of, where): Figure(value)
                for where, seconds in taken.items()
                for of, value in _figures(seconds).items()
            }

    return Contestant(scene.words[0], run, once=True)


def _begin(client: PacsClient, remote: RemoteAE, files: Files) -> Job:
    """A job of many files that has an association."""
    job = client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(files.directory)))
    wait_until(lambda: connections(remote.port) or job.progress().state.finished, _PATIENCE, "the job to begin")
    return job


def _keep_busy(client: PacsClient, remote: RemoteAE, files: Files, jobs: list[Job]) -> None:
    """Enqueue the next job when one has ended."""
    if jobs[-1].progress().state.finished:
        jobs.append(_begin(client, remote, files))


def _asked(bench: Bench, people: Mapping[str, _Person], keep_busy: Callable[[], None]) -> Mapping[str, list[float]]:
    taken: dict[str, list[float]] = {where: [] for where in people}
    began = time.monotonic()
    for _ in range(1 if bench.small else _ROUNDS):
        for where, person in people.items():
            keep_busy()
            taken[where] += person.round()
        if time.monotonic() - began > _LONGEST:
            break
    return taken


def _figures(seconds: list[float]) -> Mapping[str, float]:
    """Of a few values the 95th percentile is the longest."""
    ordered = sorted(seconds)
    return {
        "median": statistics.median(ordered),
        _P95: ordered[math.ceil(0.95 * len(ordered)) - 1],
        "longest": ordered[-1],
    }


_P95: Final = "95 %"


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    yield [_contestant(bench, scene) for scene in _SCENES]


def _bar(scene: _Scene, where: str) -> Bar:
    against = (
        f"{where}, beside a job of 10,000 files to {scene.words[0]}",
        f"{_CHINESE[where]}，同时向{scene.words[1]}发送 10,000 个文件",
    )
    name = scene.name(_P95, where)
    return Bar(name, name, (), 1, against, at_least=False, unit="s")


WORK: Final = Work(
    "interactive",
    (
        "95 % of echo, query, dry run, send-file, verify answered within",
        "95% 的 echo、查询、试运行、send-file、核实的响应时间",
    ),
    (TEN_THOUSAND,),
    _scene,
    tuple(_bar(scene, where) for scene in _SCENES for where in scene.remotes),
    scheduling=True,
)
