"""Jobs of every priority share a PACS at a pace, over as many associations as it bears; then what has shares dies."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from pacs_tasks import Job
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.ledger.keys import server_time
from pacs_tasks.request import Priority
from tests.chaos.cases.case import WORKERS, Case, sent, written
from tests.chaos.closing import Expected, Found, check_sent, require
from tests.chaos.files import Files
from tests.chaos.line import Cut, Line, Plan
from tests.chaos.pacs import Pacs
from tests.chaos.stage import RoundError, Stage

#: Seconds within which shares of a worker that was killed are free for others.
_GIVEN_BACK: Final = 20.0
#: Seconds by which tokens of the pace may be taken ahead.
_AHEAD: Final = 5.0
#: Seconds that the PACS is given behind a line that is cut.
_PATIENCE: Final = 3.0
#: Seconds that the pace lets all jobs of a round take at least.
_LENGTH: Final = 10.0


def _begun(stage: Stage, pacs: Pacs, files: Files, port: int | None = None, **request: object) -> list[Job]:
    """A job of each priority, the least urgent first, to a PACS or to the line that leads to it."""
    remote = pacs.remote.model_copy(update={"port": port or pacs.port})
    config = stage.directory / "pacs-tasks.toml"
    config.write_text(
        f'[remotes.chaos]\nae_title = "{remote.ae_title}"\nhost = "{remote.host}"\nport = {remote.port}\n'
        f"instances_per_second = {files.count * len(Priority) / _LENGTH}\n"
    )
    stage.start_workers(WORKERS, PACS_TASKS_CONFIG=str(config))
    return [sent(stage, remote, files, priority=each, **request) for each in reversed(Priority)]


def _killed(stage: Stage) -> Found:
    """A child and a whole other worker: their shares are back in time, and the jobs end as always."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    jobs = _begun(stage, pacs, files)
    known = stage.after(jobs[-1], 0.05, 0.5)
    child = stage.at_work(jobs[-1])
    worker = stage.random.choice([each for each in stage.workers if child not in each.children()])
    dead = {child, *worker.children()}
    twice = stage.freeze(dead, pacs)
    stage.strike(f"kill -9 of child {child} and of {worker.name} after {known} outcomes of the most urgent job")
    stage.kill_child(child)
    worker.kill()
    _given_back(stage, pacs, jobs, dead)
    return check_sent(stage, pacs, files, *jobs, expected=Expected(most_twice=twice))


def _given_back(stage: Stage, pacs: Pacs, jobs: Collection[Job], dead: set[int]) -> None:
    def kept() -> list[str]:
        now, name = server_time(stage.redis), name_of(pacs.remote)
        leases = stage.redis.zrangebyscore(f"pacs_tasks:associations:held:{name}", f"({now}", "+inf")
        # The last words of a lease are its process and a number.
        kept = [lease for lease in map(str, leases) if int(lease.rsplit(" ", 2)[1]) in dead]
        claims = [
            f"claim of {pid} at {host}" for job in jobs for host, pid in stage.claims(job).values() if pid in dead
        ]
        due = float(stage.redis.hget(f"pacs_tasks:pace:tokens:{name}", "instances") or now)
        tokens = [f"tokens for {due - now:.0f} s"] if due > now + _AHEAD else []
        return kept + claims + tokens

    try:
        stage.wait(lambda: not kept(), "shares of the dead", _GIVEN_BACK)
    except RoundError:
        raise RoundError(f"not free within {_GIVEN_BACK:.0f} s: {kept()}") from None
    stage.note("what the dead held is free")


def _cut(stage: Stage) -> Found:
    """Three to six times, within a data set on its way or an answer on its way back."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    size = sum(Path(path).stat().st_size for path in files.uids) * len(Priority)
    offsets = [round(size * stage.random.uniform(0.05, 0.75)) for _ in range(stage.random.randint(3, 6))]
    cuts = [Cut("out", offset, stage.random.choice(("reset", "swallow"))) for offset in offsets]
    line = Line(stage.stack, stage.directory, pacs.remote, Plan(cuts=cuts))
    jobs = _begun(stage, pacs, files, line.remote.port, timeout=_PATIENCE)
    for job in jobs:
        stage.wait(lambda each=job: each.progress().state.finished, "the end of a job")  # type: ignore[misc]
    seen = line.cuts()
    require(seen, "the line was not cut")
    for when, what in seen:
        stage.strike(f"the line was cut: {what}", when)
    return check_sent(stage, pacs, files, *jobs, expected=Expected(most_twice=len(seen), told=True))


def _redis(stage: Stage) -> Found:
    """It forgets what it was told in its last second or two, also who has which share."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    jobs = _begun(stage, pacs, files)
    known = stage.after(jobs[-1], 0.1, 0.7)
    stage.strike(f"kill -9 of Redis after {known} outcomes of the first")
    stage.kill_redis()
    stage.start_redis()
    recorded = stage.wait(lambda: [sum(job.progress().counters.recorded for job in jobs)], "Redis to answer")[0]
    most = pacs.requests() - recorded
    stage.note(f"Redis is back with {recorded} outcomes, {most} less than the PACS has been sent")
    return check_sent(stage, pacs, files, *jobs, expected=Expected(most_twice=most))


CASES: Final = (
    Case("shares-killed", "kill -9 of a child and a worker within jobs of every priority", _killed),
    Case("shares-cut", "the line cut within jobs of every priority", _cut),
    Case("shares-redis", "kill -9 of Redis, which starts again, within jobs of every priority", _redis),
)
