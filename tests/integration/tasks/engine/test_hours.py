"""What a task does when the hours of its remote end, and a worker when they begin, by a clock of the test's own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.fleet.pace import HoursWaits
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.request import Priority, StoreDirectoryRequest
from pacs_tasks.settings.pace import Hours, Pace, parse_window
from pacs_tasks.tasks.engine import claim, pace
from pacs_tasks.tasks.engine.base import PartParkedError
from pacs_tasks.tasks.engine.pace import Pacing

NAME = "ARCHIVE at storage.example:104"
HOURS = Hours((parse_window("22:00-06:00"),), "UTC")
REQUEST = StoreDirectoryRequest(remote=RemoteAE(), directory="/data", priority=Priority.BULK)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Clock:
    """The time in Unix seconds, for one module after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
        self.now = 0.0
        clock = SimpleNamespace(time=lambda: self.now, monotonic=time.monotonic)
        for module in (claim, pace):
            monkeypatch.setattr(module, "time", clock)
            monkeypatch.setattr(module, "ledger", lambda: ledger)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Clock:
    return Clock(monkeypatch, ledger)


@pytest.fixture
def job(ledger: Ledger) -> str:
    """A running bulk job."""
    ledger.open("job", REQUEST.task, REQUEST)
    ledger.start("job", "worker")
    return "job"


class Enqueued(list[str]):
    """Stands for the Celery app of a watch; the ids of the jobs that it enqueues."""

    def send_task(self, _name: str, *, task_id: str, **_: object) -> None:
        self.append(task_id)


def watched(ledger: Ledger, hours: dict[str, Hours]) -> list[str]:
    enqueued = Enqueued()
    claim.resume_in_hours(cast(Any, enqueued), ledger, hours)
    return enqueued


def test_a_job_waits_from_the_end_of_the_hours_to_the_next(clock: Clock, job: str, ledger: Ledger) -> None:
    """One worker enqueues it then, and none before."""
    pacing = Pacing(job, {NAME: Pace(hours=HOURS)}, lambda: False, bulk=True)
    clock.now = at("2026-11-27T05:59:59")
    assert not pacing.closed
    pacing.check()
    assert pacing.admits([100], 0), "without a limit nothing waits for tokens"
    clock.now = at("2026-11-27T06:00:00")
    with pytest.raises(PartParkedError):
        pacing.check()
    seen = ledger.progress(job)
    assert (seen.waiting_for, seen.waiting_until) == (NAME, at("2026-11-27T22:00"))
    assert seen.waiting_reason == "until 22:00 (UTC)"
    clock.now = at("2026-11-27T21:59:59")
    assert watched(ledger, {NAME: HOURS}) == watched(ledger, {}) == []
    clock.now = at("2026-11-27T22:00:00")
    assert watched(ledger, {NAME: HOURS}) == [job]
    assert watched(ledger, {NAME: HOURS}) == []
    assert ledger.progress(job).waiting_until is None
    assert not HoursWaits(ledger.client).all()


def test_changed_hours_count_at_once(clock: Clock, job: str, ledger: Ledger) -> None:
    """For a worker that has them in its settings; one that has none waits for the time that was recorded."""
    clock.now = at("2026-11-27T12:00")
    with pytest.raises(PartParkedError):
        Pacing(job, {NAME: Pace(hours=HOURS)}, lambda: False, bulk=True).check()
    assert watched(ledger, {}) == []
    assert watched(ledger, {NAME: Hours((parse_window("11:00-13:00"),), "UTC")}) == [job]


def test_other_jobs_know_no_hours(clock: Clock, job: str) -> None:
    """Whatever the time is."""
    clock.now = at("2026-11-27T12:00")
    pacing = Pacing(job, {NAME: Pace(hours=HOURS)}, lambda: False, bulk=False)
    assert not pacing.closed
    pacing.check()
