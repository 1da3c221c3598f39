"""One, two and four workers at a PACS that takes 50 ms for an instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.settings import Settings
from tests.benchmarks.evidence import check_files
from tests.benchmarks.files import THREE_HUNDRED
from tests.benchmarks.fleet import SEND_DIR, Fleet, default_fleet
from tests.benchmarks.line import line_to
from tests.benchmarks.measuring import Bar, Bench, Contestant, Figure, Work
from tests.benchmarks.programs import once_started
from tests.support import peers

#: Seconds that the PACS takes for an instance.
_EACH: Final = 0.05
#: So that what is measured is what workers add: each of them has one process, and that has one association.
_ONE_EACH: Final = (
    {"PACS_TASKS_ASSOCIATIONS_PER_PROCESS": "1"} if "associations_per_process" in Settings.model_fields else {}
)


def _name(workers: int) -> str:
    return f"{SEND_DIR}, {workers} {'worker' if workers == 1 else 'workers'}"


def _from_first_file(name: str) -> str:
    """The name of the figure of what the workers share: the associations before it take as long for one as for four."""
    return f"{name}, from the first file on"


def _seconds_from_first_file(ours: Fleet) -> float:
    with ours.client() as client:
        job = client.jobs(1)[0]
        receipts = Instances(client.ledger, job.job_id).receipts(0, job.counters.total)
        begun = min(outcome.begun for _, outcome in receipts)
    assert job.finished is not None
    return job.finished - begun


def _contestant(bench: Bench, workers: int) -> Contestant:
    def run() -> Mapping[str, Figure]:
        files = bench.files(THREE_HUNDRED)
        with (
            bench.room() as room,
            default_fleet(room, number=workers, concurrency=1, **_ONE_EACH) as ours,
            peers.storescp(room, "STORESCP", "--fork") as peer,
            line_to(peer.port, room, _EACH) as line,
        ):
            figures = ours.sender(_name(workers)).send(replace(peer, port=line.port), files)
            check_files(_name(workers), files, peer.directory)
            return {**figures, _from_first_file(_name(workers)): Figure(_seconds_from_first_file(ours))}

    return Contestant(_name(workers), run)


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    yield [_contestant(bench, workers) for workers in (1, 2, 4)]


def _bar(workers: int, limit: float | None) -> Bar:
    against = (f"{workers} workers, as a multiple of one", f"{workers} 个工作进程，与一个之比")
    return Bar(f"{workers}-workers", once_started(_name(1)), (once_started(_name(workers)),), limit, against, own=True)


def _bar_from_first_file(workers: int) -> Bar:
    against = (
        f"{workers} workers, as a multiple of one, from the first file on",
        f"{workers} 个工作进程，与一个之比，自第一个文件起",
    )
    ours = (_from_first_file(_name(workers)),)
    return Bar(f"{workers}-workers-sending", _from_first_file(_name(1)), ours, None, against, own=True)


WORK: Final = Work(
    "scaling",
    (
        "`send-dir` of 300 files, 50 ms an instance, workers of one association",
        "`send-dir` 发送 300 个文件，每实例 50 毫秒，每个工作进程一个关联",
    ),
    (THREE_HUNDRED,),
    _scene,
    (_bar(2, None), _bar(4, 3.8), _bar_from_first_file(4)),
    scheduling=True,
)
