"""How near a rate comes to the pace that is set for a remote, by the times of the files at whoever receives them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacs_tasks import PacsClient, RemoteAE, RetrieveMethod, RetrieveRequest, StoreDirectoryRequest
from pacs_tasks.request import AnyRequest
from tests.benchmarks.evidence import check_claims, instances
from tests.benchmarks.files import CT, MANY_SERIES, TEN_THOUSAND, Files
from tests.benchmarks.fleet import RECEIVER, default_fleet
from tests.benchmarks.measuring import Bar, Bench, BenchError, Contestant, Figure, Work
from tests.benchmarks.programs import one_association
from tests.support import peers, workers
from tests.support.ports import free_port

#: Seconds of a job, and those at its begin that do not count.
_SECONDS, _BEGIN = 12.0, 2.0
#: The few files of the small form may all have arrived with a begin.
_SMALL_SECONDS, _SMALL_BEGIN = 3.0, 0.0
#: Seconds within which a job ends that was cancelled.
_PATIENCE: Final = 60.0


@dataclass(frozen=True)
class _Case:
    """A pace, the setting that sets it, and how the instances go: to the remote, or from it by a method."""

    words: tuple[str, str]
    files: str
    setting: str
    pace: float
    method: RetrieveMethod | None = None

    @property
    def name(self) -> str:
        return self.words[0]

    @contextmanager
    def arrival(self, room: Path, remote: RemoteAE) -> Iterator[Path]:
        """Where the instances arrive: at an empty peer, or in a directory of ours."""
        if self.method is None:
            with peers.storescp(room, remote.ae_title, "--fork", port=remote.port) as peer:
                yield peer.directory
        else:
            output = room / "output"
            output.mkdir()
            yield output

    def request(self, remote: RemoteAE, files: Files, output: Path) -> AnyRequest:
        if self.method is None:
            return StoreDirectoryRequest(remote=remote, directory=str(files.directory))
        return RetrieveRequest(remote=remote, study_uid=files.study_uid, output_dir=str(output), method=self.method)


_CASES: Final = (
    _Case(("5 instances a second", "每秒 5 个实例"), TEN_THOUSAND, "instances_per_second", 5),
    _Case(("100 instances a second", "每秒 100 个实例"), TEN_THOUSAND, "instances_per_second", 100),
    _Case(("5 MB a second", "每秒 5 MB"), CT, "bytes_per_second", 5_000_000),
    _Case(
        ("100 instances a second by C-GET", "C-GET 每秒 100 个实例"),
        MANY_SERIES,
        "instances_per_second",
        100,
        RetrieveMethod.GET,
    ),
    _Case(
        ("100 instances a second by C-MOVE", "C-MOVE 每秒 100 个实例"),
        MANY_SERIES,
        "instances_per_second",
        100,
        RetrieveMethod.MOVE,
    ),
)


def _contestant(bench: Bench, case: _Case, remote: RemoteAE, client: PacsClient) -> Contestant:
    def run() -> Mapping[str, Figure]:
        files = bench.files(case.files)
        with bench.room() as room, case.arrival(room, remote) as there:
            job = client.enqueue(case.request(remote, files, there))
            _let_run(bench, there)
            job.cancel()
            job.wait(_PATIENCE)
            check_claims(case.name, job, instances(there))
            begin = _SMALL_BEGIN if bench.small else _BEGIN
            measured = rate(case.name, _files(there), begin, in_bytes=case.setting == "bytes_per_second")
            off = abs(measured / case.pace - 1)
            return {f"{case.name}: measured": Figure(measured, "a second"), case.name: Figure(off, "")}

    return Contestant(case.name, run, once=True)


def _remotes() -> list[RemoteAE]:
    """A remote for each case; those that deliver are one Orthanc."""
    archive = RemoteAE(ae_title="ORTHANC", port=free_port())
    sent = [RemoteAE(ae_title="STORESCP", port=free_port()) for case in _CASES if case.method is None]
    return sent + [archive] * (len(_CASES) - len(sent))


def _config(room: Path, remotes: Sequence[RemoteAE]) -> Path:
    """The settings of the worker, with the pace of each remote."""
    config = room / "pacs-tasks.toml"
    tables = {
        remote.port: f'[remotes.port{remote.port}]\nae_title = "{remote.ae_title}"\nhost = "{remote.host}"\n'
        f"port = {remote.port}\n{case.setting} = {case.pace}\n"
        for case, remote in zip(_CASES, remotes, strict=True)
    }
    config.write_text("\n".join(tables.values()))
    return config


def _files(there: Path) -> list[tuple[float, int]]:
    """When each file was written that has arrived, and its size."""
    found = [path.stat() for path in there.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return sorted((each.st_mtime, each.st_size) for each in found)


def _let_run(bench: Bench, there: Path) -> None:
    """Wait for so many seconds after the first file."""
    deadline = time.monotonic() + _PATIENCE
    while not _files(there):
        if time.monotonic() > deadline:
            raise BenchError(f"nothing has arrived within {_PATIENCE:.0f} s")
        time.sleep(0.05)
    time.sleep(_SMALL_SECONDS if bench.small else _SECONDS)


def rate(who: str, arrived: Sequence[tuple[float, int]], begin: float, *, in_bytes: bool) -> float:
    """Instances or bytes a second, without the begin: from one file to the last, counting all but that one.

    ``begin`` is in seconds.

    Raises
    ------
    BenchError
        If less than two files have arrived after the begin, or all at one moment.
    """
    counted = [each for each in arrived if each[0] >= arrived[0][0] + begin]
    seconds = counted[-1][0] - counted[0][0] if counted else 0.0
    if not seconds:
        raise BenchError(f"{who}: {len(counted)} of {len(arrived)} files arrived after the begin, in no time")
    return sum(size if in_bytes else 1 for _, size in counted[1:]) / seconds


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    remotes, to_us = _remotes(), free_port()
    archive = remotes[-1]
    with bench.room() as room, ExitStack() as stack:
        ours = stack.enter_context(default_fleet(room, PACS_TASKS_CONFIG=str(_config(room, remotes))))
        stack.enter_context(workers.receiver(ours.url, room, to_us, RECEIVER))
        to = {RECEIVER: ("127.0.0.1", to_us)}
        orthanc = stack.enter_context(peers.orthanc(room, destinations=to, ports=(archive.port, free_port())))
        one_association().send(orthanc, bench.files(MANY_SERIES))
        client = stack.enter_context(ours.client())
        yield [_contestant(bench, case, remote, client) for case, remote in zip(_CASES, remotes, strict=True)]


WORK: Final = Work(
    "pace",
    ("rate beside the pace that is set for a remote: off by", "实际速率与设定速率之差"),
    (TEN_THOUSAND, CT, MANY_SERIES),
    _scene,
    tuple(Bar(case.name, case.name, (), 0.05, case.words, at_least=False) for case in _CASES),
    scheduling=True,
)
