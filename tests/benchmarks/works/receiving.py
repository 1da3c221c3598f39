"""Receiving from dcmsend: our receiver beside storescp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.benchmarks.evidence import check_files
from tests.benchmarks.files import CT, SMALL_CT, Files
from tests.benchmarks.fleet import RECEIVER
from tests.benchmarks.measuring import Bar, Bench, Contestant, Figure, Work
from tests.benchmarks.programs import dcmsend, how
from tests.support import peers, workers
from tests.support.peers import Peer
from tests.support.ports import free_port
from tests.support.redis_server import redis_server

_OURS: Final = "pacs-tasks receiver"
_TUNED: Final = f"storescp, {how(tuned=True)}"
_INSTALLED: Final = f"storescp, {how(tuned=False)}"


def _into(name: str, figures: Mapping[str, Figure]) -> Mapping[str, Figure]:
    """The one figure of the sender, under the name of who received."""
    (figure,) = figures.values()
    return {name: figure}


def _our_receiver(bench: Bench, redis_url: str, files: Files, *, tuned: bool) -> Contestant:
    def run() -> Mapping[str, Figure]:
        port = free_port()
        with bench.room() as room, workers.receiver(redis_url, room, port, RECEIVER) as process:
            figures = dcmsend(tuned=tuned).send(Peer(RECEIVER, port, process), files)
            check_files(_OURS, files, room / "data/received")
            return _into(_OURS, figures)

    return Contestant(_OURS, run)


def _storescp(bench: Bench, name: str, files: Files, *, tuned: bool, once: bool) -> Contestant:
    def run() -> Mapping[str, Figure]:
        with bench.room() as room, peers.storescp(room, tuned=tuned) as peer:
            figures = dcmsend(tuned=tuned).send(peer, files)
            check_files(name, files, peer.directory)
            return _into(name, figures)

    return Contestant(name, run, once)


@contextmanager
def _from_tuned_dcmsend(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    with bench.room() as room, _redis(room) as url:
        yield [
            _our_receiver(bench, url, files, tuned=True),
            _storescp(bench, _TUNED, files, tuned=True, once=False),
        ]


@contextmanager
def _from_dcmsend_as_installed(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(SMALL_CT)
    with bench.room() as room, _redis(room) as url:
        yield [
            _our_receiver(bench, url, files, tuned=False),
            _storescp(bench, _INSTALLED, files, tuned=False, once=True),
        ]


@contextmanager
def _redis(directory: Path) -> Iterator[str]:
    """Where the receivers announce themselves."""
    with redis_server(directory, durable=True) as redis:
        yield redis.url()


WORKS: Final = (
    Work(
        "receive",
        ("receiving CT500 from a tuned `dcmsend`", "从已调优的 `dcmsend` 接收 CT500"),
        (CT,),
        _from_tuned_dcmsend,
        (Bar("storescp", _TUNED, (_OURS,), 0.8, ("`storescp`, tuned", "`storescp`，已调优")),),
    ),
    Work(
        "receive-as-installed",
        ("receiving SMALL2000 from a `dcmsend` as installed", "从默认安装的 `dcmsend` 接收 SMALL2000"),
        (SMALL_CT,),
        _from_dcmsend_as_installed,
        (Bar("storescp", _INSTALLED, (_OURS,), 8, ("`storescp`, as installed", "`storescp`，默认安装")),),
    ),
)
