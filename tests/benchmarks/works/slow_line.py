"""Sending CT500 over a line of 20 ms round trip: one association waits for it 500 times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from tests.benchmarks.evidence import check_files
from tests.benchmarks.files import CT, Files
from tests.benchmarks.fleet import fleet
from tests.benchmarks.line import line_to
from tests.benchmarks.measuring import Bar, Bench, Contestant, Figure, Work
from tests.benchmarks.programs import Sender, dcmsend
from tests.support import peers

#: Seconds there and back.
_ROUND_TRIP: Final = 0.02
_ASSOCIATIONS: Final = 8
_PROCESSES: Final = f"pacs-tasks send-dir, {_ASSOCIATIONS} processes"
_THREADS: Final = f"pacs-tasks send-dir, {_ASSOCIATIONS} threads"


def _over_the_line(bench: Bench, sender: Sender, files: Files) -> Contestant:
    def run() -> Mapping[str, Figure]:
        with (
            bench.room() as room,
            peers.storescp(room, "STORESCP", "--fork") as peer,
            line_to(peer.port, room, _ROUND_TRIP) as far,
        ):
            figures = sender.send(replace(peer, port=far), files)
            check_files(sender.name, files, peer.directory)
            return figures

    return Contestant(sender.name, run)


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    with (
        bench.room() as one,
        bench.room() as other,
        fleet(one, concurrency=_ASSOCIATIONS) as processes,
        fleet(other, concurrency=_ASSOCIATIONS, pool="threads") as threads,
    ):
        senders = [processes.sender(_PROCESSES), threads.sender(_THREADS), dcmsend(tuned=True)]
        yield [_over_the_line(bench, each, files) for each in senders]


WORK: Final = Work(
    "slow-line",
    (
        "`send-dir` of CT500, 20 ms round trip, 8 associations",
        "`send-dir` 发送 CT500，往返延迟 20 毫秒，8 个关联",
    ),
    (CT,),
    _scene,
    (
        Bar(
            "dcmsend",
            dcmsend(tuned=True).name,
            (_PROCESSES, _THREADS),
            6,
            ("`dcmsend`, tuned, one association", "`dcmsend`，已调优，一个关联"),
        ),
    ),
)
