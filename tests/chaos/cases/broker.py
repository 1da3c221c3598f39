"""Redis dies and comes back with what it has written, is away for half a minute, or has no room for more."""

from __future__ import annotations

from typing import Final

from pacs_tasks import Job
from tests.chaos.cases.case import WORKERS, Case, sent, written
from tests.chaos.closing import Expected, Found, check_sent
from tests.chaos.pacs import Pacs
from tests.chaos.stage import Stage

#: Seconds that Redis is away.
_AWAY: Final = 30.0
#: Seconds that it is full.
_FULL: Final = 15.0


def _unrecorded(stage: Stage, pacs: Pacs, job: Job) -> int:
    """How many instances the PACS has that Redis, which is back, knows nothing about: these may go once more.

    With ``appendfsync everysec`` a Redis that is killed may lose what it was told in its last second or two.
    """
    known = stage.wait(lambda: [job.progress().counters.recorded], "Redis to answer")[0]
    requests = pacs.requests()
    stage.note(f"Redis is back with {known} outcomes, the PACS has been sent {requests} instances")
    return requests - known


def _killed(stage: Stage) -> Found:
    """Once or twice."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    shares = sorted(stage.random.uniform(0.05, 0.7) for _ in range(stage.random.randint(1, 2)))
    most = 0
    for share in shares:
        known = stage.after(job, share, share)
        stage.strike(f"kill -9 of Redis after {known} outcomes")
        stage.kill_redis()
        stage.start_redis()
        most += _unrecorded(stage, pacs, job)
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=most))


def _gone(stage: Stage) -> Found:
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    known = stage.after(job)
    stage.strike(f"Redis is killed after {known} outcomes and stays away for {_AWAY:.0f} s")
    stage.kill_redis()
    stage.pass_time(_AWAY)
    stage.start_redis()
    most = _unrecorded(stage, pacs, job)
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=most))


def _silent(stage: Stage) -> Found:
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    known = stage.after(job)
    stage.strike(f"Redis is stopped after {known} outcomes, with its connections open, for {_AWAY:.0f} s")
    stage.pause_redis()
    stage.pass_time(_AWAY)
    stage.wake_redis()
    stage.note("Redis goes on")
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=0))


def _full(stage: Stage) -> Found:
    """It refuses whatever would take more memory, and goes on answering."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    known = stage.after(job)
    stage.strike(f"Redis is full after {known} outcomes for {_FULL:.0f} s")
    stage.redis.config_set("maxmemory", "1mb")
    stage.pass_time(_FULL)
    stage.redis.config_set("maxmemory", "0")
    stage.note("Redis has room again")
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=0))


CASES: Final = (
    Case("redis", "kill -9 of Redis, which starts again", _killed),
    Case("redis-gone", "Redis gone for 30 s", _gone),
    Case("redis-silent", "Redis stopped (SIGSTOP) for 30 s", _silent),
    Case("redis-full", "Redis full (maxmemory, noeviction) for 15 s", _full),
)
