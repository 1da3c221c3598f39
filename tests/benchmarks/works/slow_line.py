"""Sending CT500 over lines of 20 and 100 ms round trip: one association waits for the line 500 times."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from tests.benchmarks.evidence import check_files
from tests.benchmarks.files import CT, Files
from tests.benchmarks.fleet import SEND_DIR, default_fleet, fleet
from tests.benchmarks.line import line_to
from tests.benchmarks.measuring import Bar, Bench, Contestant, Figure, Work
from tests.benchmarks.programs import Sender, dcmsend, once_started
from tests.support import peers

#: Seconds there and back.
_SLOW: Final = 0.02
_FAR: Final = 0.1
_ASSOCIATIONS: Final = 8
_PROCESSES: Final = f"pacs-tasks send-dir, {_ASSOCIATIONS} processes"
_THREADS: Final = f"pacs-tasks send-dir, {_ASSOCIATIONS} threads"
_DCMSEND: Final = dcmsend(tuned=True).name


def _over_the_line(bench: Bench, sender: Sender, files: Files, round_trip: float, *, once: bool = False) -> Contestant:
    def run() -> Mapping[str, Figure]:
        with (
            bench.room() as room,
            peers.storescp(room, "STORESCP", "--fork") as peer,
            line_to(peer.port, room, round_trip) as line,
        ):
            began = time.monotonic()
            figures = sender.send(replace(peer, port=line.port), files)
            busy = line.cpu() / (time.monotonic() - began)
            check_files(sender.name, files, peer.directory)
            return {**figures, f"the line's own work: {sender.name}": Figure(busy, "cores")}

    return Contestant(sender.name, run, once)


@contextmanager
def _slow_line(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    with (
        bench.room() as one,
        bench.room() as other,
        fleet(one, concurrency=_ASSOCIATIONS) as processes,
        fleet(other, concurrency=_ASSOCIATIONS, pool="threads") as threads,
    ):
        senders = [processes.sender(_PROCESSES), threads.sender(_THREADS), dcmsend(tuned=True)]
        yield [_over_the_line(bench, each, files, _SLOW) for each in senders]


@contextmanager
def _far_line(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    yield [
        _over_the_line(bench, bench.shared(default_fleet).sender(), files, _FAR),
        _over_the_line(bench, dcmsend(tuned=True), files, _FAR, once=True),
    ]


WORKS: Final = (
    Work(
        "slow-line",
        (
            "`send-dir` of CT500, 20 ms round trip, 8 associations",
            "`send-dir` 发送 CT500，往返延迟 20 毫秒，8 个关联",
        ),
        (CT,),
        _slow_line,
        (
            Bar(
                "dcmsend",
                _DCMSEND,
                (_PROCESSES, _THREADS),
                6,
                ("`dcmsend`, tuned, one association", "`dcmsend`，已调优，一个关联"),
            ),
        ),
    ),
    Work(
        "far-line",
        (
            "`send-dir` of CT500, 100 ms round trip, default settings",
            "`send-dir` 发送 CT500，往返延迟 100 毫秒，默认设置",
        ),
        (CT,),
        _far_line,
        (
            Bar(
                "dcmsend",
                _DCMSEND,
                (SEND_DIR,),
                20,
                ("`dcmsend`, tuned, one association", "`dcmsend`，已调优，一个关联"),
            ),
            Bar(
                "dcmsend-once-started",
                _DCMSEND,
                (once_started(SEND_DIR),),
                None,
                (
                    "`dcmsend`, tuned, one association; ours once started",
                    "`dcmsend`，已调优，一个关联；pacs-tasks 不计启动",
                ),
            ),
        ),
    ),
)
