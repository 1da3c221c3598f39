"""What the pages show of jobs: plain values, with what a caller may not see left out."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pacs_tasks.cli.output.view import command_of, done_of, reason_of
from pacs_tasks.client import PacsClient
from pacs_tasks.errors import BrokerUnavailableError, PacsTasksError, SealingError, without_comments
from pacs_tasks.ledger.receipts import WITH_RECEIPTS
from pacs_tasks.operations import TRANSFERS
from pacs_tasks.outcome import (
    Category,
    Counters,
    InstanceCategory,
    InstanceOutcome,
    JobState,
    Progress,
    TransferOutcome,
)
from pacs_tasks.privacy import plain
from pacs_tasks.request.store import SENDING
from pacs_tasks.serve.watch import public

#: Problems of one job that are read for a page. Receipts have all of them.
MOST_PROBLEMS = 2_000
#: Reasons that the list of jobs shows for one job.
_REASONS = 3
#: Seconds of which the rate is the average, and jobs whose rates and verdicts are remembered.
_WINDOW = 20.0
_REMEMBERED = 1_000
_FAILED = (InstanceCategory.FAILED, InstanceCategory.MISSING)


class Group(StrEnum):
    """The part of the list of jobs in which a job stands, in this order."""

    ATTENTION = "attention"
    ACTIVE = "active"
    ENDED = "ended"


class Label(StrEnum):
    """The state of a job in words."""

    QUEUED = "queued"
    RUNNING = "running"
    PARKED = "waiting for the PACS"
    OUT_OF_HOURS = "waiting for the hours of the PACS"
    CANCELLING = "cancelling"
    DONE = "done"
    REMARKED = "done, with warnings"
    PARTIAL = "partly failed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Tone(StrEnum):
    """How a state looks: its colour and its sign."""

    BAD = "bad"
    WARN = "warn"
    BUSY = "busy"
    IDLE = "idle"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Reason:
    """A number of instances that failed for the same reason."""

    count: int
    text: str


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the list and its own page show it. Shares are of 100; times are in Unix seconds."""

    progress: Progress
    label: Label
    tone: Tone
    group: Group
    reasons: tuple[Reason, ...] = ()
    #: Instances and bytes a second; seconds until the end. None: not known.
    rate: float | None = None
    bytes_rate: float | None = None
    left: float | None = None
    #: The error that ended it, as the caller may see it.
    error: str = ""

    @property
    def id(self) -> str:
        return self.progress.job_id

    @property
    def command(self) -> str:
        return command_of(self.progress.task)

    @property
    def done_word(self) -> str:
        """What was done with an item that succeeded, such as ``sent``."""
        return done_of(self.progress.task)

    @property
    def counters(self) -> Counters:
        return self.progress.counters

    @property
    def not_done(self) -> int:
        return self.counters.failed + self.counters.missing

    @property
    def good_share(self) -> float:
        return _share(self.counters.done + self.counters.skipped, self.counters.total)

    @property
    def bad_share(self) -> float:
        return _share(self.not_done, self.counters.total)

    @property
    def seconds(self) -> float | None:
        """The time that it took, or has taken until now."""
        if self.progress.started is None:
            return None
        return (self.progress.finished or time.time()) - self.progress.started

    @property
    def waiting_for(self) -> str:
        return plain(self.progress.waiting_for)

    @property
    def may_cancel(self) -> bool:
        return not self.progress.state.finished and not self.progress.cancel_requested

    @property
    def may_retry(self) -> bool:
        """Whether something in it failed, is missing, or was not begun."""
        counters = self.counters
        if not self.progress.state.finished or self.progress.task not in TRANSFERS:
            return False
        return bool(self.not_done) or self.progress.state is not JobState.DONE or counters.recorded < counters.total

    @property
    def may_resume(self) -> bool:
        """Whether it waits for a remote that can be tried at once."""
        return not self.progress.state.finished and bool(self.progress.waiting_for)

    @property
    def has_receipts(self) -> bool:
        return self.progress.task in WITH_RECEIPTS

    @property
    def may_verify(self) -> bool:
        return self.progress.state is JobState.DONE and self.progress.task in SENDING and self.counters.done > 0


def _share(count: int, total: int) -> float:
    return round(100 * count / total, 2) if total else 0.0


class _Rate:
    """The rate of one job over the last seconds, as this process has seen it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def update(self, now: float, progress: Progress) -> tuple[float | None, float | None]:
        """Return instances and bytes a second: of these seconds, or since the start where they are not enough."""
        counters = progress.counters
        if not self._samples or now - self._samples[-1][0] >= 0.5:
            self._samples.append((now, counters.recorded, counters.bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        then, recorded, size = self._samples[0]
        if now - then < 2.0 or now - then > 2 * _WINDOW:
            attempt = counters.since(progress.earlier)
            then, recorded, size = (
                progress.started or now,
                counters.recorded - attempt.recorded,
                counters.bytes - attempt.bytes,
            )
        seconds = now - then
        if seconds <= 0 or counters.recorded <= recorded:
            return None, None
        return (counters.recorded - recorded) / seconds, (counters.bytes - size) / seconds


@dataclass
class JobViews:
    """Makes the views of jobs. It may be used from several threads.

    Parameters
    ----------
    client
        The client of the fleet's Redis.
    """

    client: PacsClient
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _rates: OrderedDict[str, _Rate] = field(default_factory=OrderedDict)
    _verdicts: OrderedDict[tuple[str, int, float], Category | None] = field(default_factory=OrderedDict)
    _reasons: OrderedDict[tuple[str, int, int], tuple[Reason, ...]] = field(default_factory=OrderedDict)

    def view(self, progress: Progress, *, patients: bool) -> JobView:
        """Make the view of a job; ``patients``: whether the caller may see patient data."""
        label, tone, group = self._state(progress)
        rate = bytes_rate = left = None
        if progress.state is JobState.RUNNING and not progress.waiting_for:
            rate, bytes_rate = self._rate(progress)
            rest = progress.counters.total - progress.counters.recorded
            left = rest / rate if rate and rest > progress.retrying else None
        return JobView(
            progress=progress,
            label=label,
            tone=tone,
            group=group,
            reasons=self._reasons_of(progress, patients=patients)[:_REASONS],
            rate=rate,
            bytes_rate=bytes_rate or None,
            left=left,
            error=plain((progress if patients else public(self.client, progress)).error),
        )

    def _rate(self, progress: Progress) -> tuple[float | None, float | None]:
        with self._lock:
            rate = self._rates.setdefault(progress.job_id, _Rate())
            self._rates.move_to_end(progress.job_id)
            _forget(self._rates)
            return rate.update(time.time(), progress)

    def _state(self, progress: Progress) -> tuple[Label, Tone, Group]:
        if progress.state.finished:
            return _ENDED[self._category(progress)]
        failed = progress.counters.failed + progress.counters.missing
        group = Group.ATTENTION if failed else Group.ACTIVE
        if progress.cancel_requested:
            return Label.CANCELLING, Tone.WARN, group
        if progress.waiting_until is not None:
            return Label.OUT_OF_HOURS, Tone.IDLE, group
        if progress.waiting_for:
            return Label.PARKED, Tone.BAD, Group.ATTENTION
        if progress.state is JobState.QUEUED:
            return Label.QUEUED, Tone.IDLE, group
        return Label.RUNNING, Tone.WARN if failed else Tone.BUSY, group

    def _category(self, progress: Progress) -> Category | None:
        """Give the category of a job that has ended; None for one without an outcome."""
        if progress.state is JobState.CANCELLED:
            return Category.CANCELLED
        if progress.state is JobState.FAILED:
            return None
        if progress.task in TRANSFERS:
            return TransferOutcome(counters=progress.counters).category
        key = (progress.job_id, progress.attempt, progress.finished or 0.0)
        with self._lock:
            if key in self._verdicts:
                return self._verdicts[key]
        try:
            outcome = self.client.ledger.end(progress.job_id).outcome
        except BrokerUnavailableError:
            raise
        except PacsTasksError:
            outcome = None
        if outcome is None:
            return None  # It cannot be read, or was reopened meanwhile.
        category = None if isinstance(outcome, PacsTasksError) else outcome.category
        with self._lock:
            self._verdicts[key] = category
            _forget(self._verdicts)
        return category

    def _reasons_of(self, progress: Progress, *, patients: bool) -> tuple[Reason, ...]:
        counters = progress.counters
        failed = counters.failed + counters.missing
        if not failed:
            return ()
        # Comments of remotes may hold patient data, so the two kinds of callers share nothing.
        key = (f"{progress.job_id} {patients}", progress.attempt, failed)
        with self._lock:
            if key in self._reasons:
                return self._reasons[key]
        reasons = by_reason((each for _, each in self.problems(progress.job_id)), patients=patients)
        with self._lock:
            self._reasons[key] = reasons
            _forget(self._reasons)
        return reasons

    def problems(self, job_id: str) -> list[tuple[int, InstanceOutcome]]:
        """Read instances that failed or are missing, in the order of the manifest, of the first so many problems.

        There are none if the key of the job is missing here, so that its counts, and other jobs, stay visible.
        """
        try:
            found = self.client.ledger.problems(job_id, MOST_PROBLEMS)
        except SealingError:
            return []
        return [(index, each) for index, each in found if each.category in _FAILED]


def _forget(known: OrderedDict[Any, Any]) -> None:
    """Forget what was written longest ago."""
    while len(known) > _REMEMBERED:
        known.popitem(last=False)


_ENDED: Mapping[Category | None, tuple[Label, Tone, Group]] = {
    Category.SUCCESS: (Label.DONE, Tone.GOOD, Group.ENDED),
    Category.WARNING: (Label.REMARKED, Tone.WARN, Group.ENDED),
    Category.PARTIAL: (Label.PARTIAL, Tone.BAD, Group.ATTENTION),
    Category.FAILED: (Label.FAILED, Tone.BAD, Group.ATTENTION),
    Category.CANCELLED: (Label.CANCELLED, Tone.IDLE, Group.ENDED),
    None: (Label.FAILED, Tone.BAD, Group.ATTENTION),
}


def safe_text(text: str, patients: bool) -> str:
    """Leave out what remotes said if the caller may see no patient data."""
    return plain(text if patients else without_comments(text))


def by_reason(problems: Iterable[InstanceOutcome], *, patients: bool) -> tuple[Reason, ...]:
    """Count problems by their reasons, the most frequent first."""
    counts = Counter(safe_text(reason_of(each), patients) for each in problems)
    return tuple(Reason(count, text) for text, count in counts.most_common())
