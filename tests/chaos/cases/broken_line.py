"""The line between us and the PACS is cut, slow, or gives one byte at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pacs_tasks.ae import RemoteAE
from tests.benchmarks.line import line_to
from tests.chaos.cases.case import WORKERS, Case, sent, written
from tests.chaos.closing import Expected, Found, check_sent, require
from tests.chaos.files import Files
from tests.chaos.line import Cut, Direction, How, Line, Plan
from tests.chaos.stage import Stage

#: Seconds that the PACS is given.
_PATIENCE: Final = 3.0
#: As long, where each byte that comes back is a turn of this process: on a crowded machine an answer takes seconds.
_PATIENCE_FOR_BYTES: Final = 10.0
#: Bytes of a C-STORE response, nearly.
_RESPONSE: Final = 130
#: Seconds from one byte that comes back to the next.
_BYTE: Final = 0.0005
#: Seconds of a round trip, and the chance that a chunk is lost, and with it the connection.
_ROUND_TRIP: Final = 0.04
_LOSS: Final = 0.01


def _chosen(stage: Stage, files: Files, direction: Direction, hows: tuple[How, ...]) -> list[Cut]:
    """Three to six moments: bytes of all that goes in a direction, spread over most of the job."""
    size = sum(Path(path).stat().st_size for path in files.uids) if direction == "out" else files.count * _RESPONSE
    return [
        Cut(direction, round(size * stage.random.uniform(0.05, 0.75)), stage.random.choice(hows))
        for _ in range(stage.random.randint(3, 6))
    ]


def _cut(direction: Direction, hows: tuple[How, ...], pause: float = 0.0) -> Callable[[Stage], Found]:
    def play(stage: Stage) -> Found:
        files = written(stage)
        return _over(stage, files, Plan(cuts=_chosen(stage, files, direction, hows), pause=pause))

    return play


def _lossy(stage: Stage) -> Found:
    return _over(stage, written(stage), Plan(loss=_LOSS, seed=stage.random.randrange(1 << 31)), _ROUND_TRIP)


def _over(stage: Stage, files: Files, plan: Plan, round_trip: float = 0.0) -> Found:
    """Send over a line, and tell what happened to it once the job has ended."""
    pacs = stage.pacs(delay=stage.pace)
    line = Line(stage.stack, stage.directory, pacs.remote, plan)
    remote: RemoteAE = line.remote
    if round_trip:
        port = stage.stack.enter_context(line_to(remote.port, stage.directory, round_trip)).port
        remote = remote.model_copy(update={"port": port})
    stage.start_workers(WORKERS)
    job = sent(stage, remote, files, timeout=_PATIENCE_FOR_BYTES if plan.pause else _PATIENCE)
    stage.wait(lambda: job.progress().state.finished, "the end of the job")
    cuts = line.cuts()
    require(cuts, "the line was not cut")
    for when, what in cuts:
        stage.strike(f"the line was cut: {what}", when)
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=len(cuts), told=True))


CASES: Final = (
    Case("bytes", "one byte at a time comes back, or one a second", _cut("back", ("stall",), _BYTE)),
    Case("cut-out", "the line cut within a PDV to the PACS", _cut("out", ("reset", "swallow"))),
    Case("cut-back", "the line cut within a PDV from the PACS", _cut("back", ("reset", "swallow"))),
    Case("loss", "40 ms round trip, 1 % of chunks reset their connection", _lossy),
)
