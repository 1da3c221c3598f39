"""Retrieving CT500 from Orthanc as installed: by C-GET, and by C-MOVE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.benchmarks.evidence import check_files, check_uids
from tests.benchmarks.files import CT, Files
from tests.benchmarks.fleet import RECEIVER, Fleet, fleet, took
from tests.benchmarks.measuring import Bar, Bench, Contestant, Figure, Work
from tests.benchmarks.programs import getscu, movescu, once_started, one_association, pynetdicom_getscu
from tests.support import peers, workers
from tests.support.peers import NOWHERE, Destinations, Orthanc
from tests.support.ports import free_port

_OURS: Final = "pacs-tasks retrieve"
_GETSCU: Final = "getscu, as installed"
_GETSCU_TUNED: Final = "getscu alone tuned"
_PYNETDICOM: Final = "pynetdicom's getscu"
_MOVESCU: Final = "movescu + storescp, as installed"
_STORESCP: Final = "STORESCP"


@contextmanager
def _orthanc_with(files: Files, directory: Path, destinations: Destinations = NOWHERE) -> Iterator[Orthanc]:
    """Orthanc as installed that holds these files."""
    with peers.orthanc(directory, destinations=destinations, tuned=False) as peer:
        one_association().send(peer, files)
        check_uids("filling Orthanc", files, peer.instances())
        yield peer


def _fetching(bench: Bench, name: str, files: Files, fetch: Callable[[Path], float]) -> Contestant:
    """Fetch into an empty directory."""

    def run() -> Mapping[str, Figure]:
        with bench.room() as room:
            seconds = fetch(room)
            check_files(name, files, room)
            return {name: Figure(seconds)}

    return Contestant(name, run)


def _our_retrieve(bench: Bench, ours: Fleet, peer: Orthanc, files: Files, method: str) -> Contestant:
    def run() -> Mapping[str, Figure]:
        with bench.room() as room:
            where = ["--study-uid", files.study_uid, "--output-dir", room, "--method", method]
            result, job = ours.command(files, "retrieve", *where, *peer.options)
            check_files(_OURS, files, room)
            return {_OURS: Figure(result.seconds), once_started(_OURS): Figure(took(job))}

    return Contestant(_OURS, run)


@contextmanager
def _by_c_get(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    ours = bench.shared(fleet)
    with bench.room() as room, _orthanc_with(files, room) as peer:
        yield [
            _our_retrieve(bench, ours, peer, files, "get"),
            _fetching(bench, _GETSCU, files, lambda into: getscu(peer, files, into, tuned=False)),
            _fetching(bench, _GETSCU_TUNED, files, lambda into: getscu(peer, files, into, tuned=True)),
            _fetching(bench, _PYNETDICOM, files, lambda into: pynetdicom_getscu(peer, files, into)),
        ]


@contextmanager
def _by_c_move(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    to_storescp, to_us = free_port(), free_port()
    destinations = {_STORESCP: ("127.0.0.1", to_storescp), RECEIVER: ("127.0.0.1", to_us)}

    def move() -> Mapping[str, Figure]:
        with bench.room() as own, peers.storescp(own, _STORESCP, tuned=False, port=to_storescp) as storescp:
            seconds = movescu(peer, files, _STORESCP, tuned=False)
            check_files(_MOVESCU, files, storescp.directory)
            return {_MOVESCU: Figure(seconds)}

    ours = bench.shared(fleet)
    with (
        bench.room() as room,
        workers.receiver(ours.url, room, to_us, RECEIVER),
        _orthanc_with(files, room, destinations) as peer,
    ):
        yield [_our_retrieve(bench, ours, peer, files, "move"), Contestant(_MOVESCU, move)]


WORKS: Final = (
    Work(
        "c-get",
        (
            "`retrieve` of CT500 by C-GET from Orthanc as installed",
            "`retrieve` 用 C-GET 从默认安装的 Orthanc 取回 CT500",
        ),
        (CT,),
        _by_c_get,
        (Bar("getscu", _GETSCU, (_OURS,), 8, ("`getscu`, as installed", "`getscu`，默认安装")),),
    ),
    Work(
        "c-move",
        (
            "`retrieve` of CT500 by C-MOVE from Orthanc as installed",
            "`retrieve` 用 C-MOVE 从默认安装的 Orthanc 取回 CT500",
        ),
        (CT,),
        _by_c_move,
        (
            Bar(
                "movescu",
                _MOVESCU,
                (_OURS,),
                8,
                ("`movescu` + `storescp`, as installed", "`movescu` + `storescp`，默认安装"),
            ),
        ),
    ),
)
