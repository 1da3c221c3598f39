"""Jobs and associations as tables, facts and parts of JSON documents, and the progress of a job on stderr."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.terminal import Fact, Table, Terminal, duration, size, when
from pacs_tasks.cli.output.view import command_of, count_facts, done_of, positive
from pacs_tasks.outcome import Counters, JobState, Progress
from pacs_tasks.privacy import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from pacs_tasks.fleet.leases import Associations


def job_document(progress: Progress) -> dict[str, Any]:
    """A job as a part of a JSON document."""
    return {**progress.model_dump(mode="json"), "seconds": progress.seconds}


def job_table(jobs: Iterable[Progress]) -> Table:
    """One row for each job."""
    table = Table(
        *("Job", "Command", "State", "Done", "Failed", "Remote", "Created", "Duration"),
        whole=[0, 3, 7],
        spare=[7, 6, 5],
    )
    for job in jobs:
        counters = job.counters
        table.add(
            job.job_id,
            command_of(job.task),
            translated(state_of(job)),
            translated(f"{counters.done} of {counters.total}") if counters.total else "",
            positive(counters.failed + counters.missing),
            plain(job.remote),
            when(job.created),
            duration(job.seconds) if job.finished else "",
        )
    return table


def association_table(remotes: Iterable[Associations]) -> Table:
    """One row for each remote with associations in use."""
    table = Table("Remote", "Associations", "Ceiling", "Rate", "Response", whole=[1, 3, 4], spare=[2, 3, 4])
    for each in remotes:
        rate = "" if each.rate is None else f"{each.rate:.1f}/s"
        response = "" if each.response_time is None else f"{each.response_time * 1000:.0f} ms"
        table.add(plain(each.remote), translated(in_use(each)), str(each.ceiling), rate, response)
    return table


def in_use(associations: Associations | None) -> str:
    """How many associations with one remote are open, may be open, and are waited for."""
    if associations is None:
        return ""
    waiting = f", {associations.waiting} waiting" if associations.waiting else ""
    return f"{associations.in_use} of {associations.limit} in use{waiting}"


def job_facts(job: Progress, *, counts: bool = True, associations: Associations | None = None) -> Iterator[Fact]:
    """Everything about one job. Leave ``counts`` out where the facts of the outcome follow."""
    counters = job.counters
    yield Fact("Job", job.job_id)
    yield Fact("Command", command_of(job.task))
    yield Fact("State", state_of(job), "bold")
    yield Fact("Waiting for", waiting_for(job), "yellow")
    yield Fact("Pace", job.pace if not job.state.finished else "")
    yield Fact("Remote", job.remote if counts else "")
    yield Fact("Associations", in_use(associations))
    yield Fact("Created", when(job.created))
    yield Fact("Started", when(job.started))
    yield Fact("Finished", when(job.finished))
    yield Fact("Duration", duration(job.seconds) if job.finished else "")
    yield Fact("Worker", job.worker)
    yield Fact("Attempt", str(job.attempt) if job.attempt > 1 else "")
    if counts:
        yield Fact("Progress", f"{counters.recorded} of {counters.total}" if counters.total else "")
        yield from count_facts(done_of(job.task), counters, job.earlier)
    yield Fact("Error", job.error, "red")


def state_of(job: Progress) -> str:
    """The state of a job, and whether it is about to change."""
    if job.waiting_until is not None and not job.cancel_requested:
        return f"{job.state} (waiting for the hours of the PACS)"
    if job.waiting_for and not job.cancel_requested:
        return f"{job.state} (waiting for the PACS)"
    return f"{job.state} (cancelling)" if job.cancel_requested and not job.state.finished else str(job.state)


def waiting_for(job: Progress) -> str:
    """The remote that a job waits for, since when, and why; or for its hours, and until when."""
    if not job.waiting_for:
        return ""
    if job.waiting_until is not None:
        return f"the hours of {job.waiting_for}: until {job.waiting_reason.removeprefix('until ')}"
    return f"{job.waiting_for}, down since {when(job.waiting_since)} ({job.waiting_reason})"


#: Seconds between two lines.
PACE = 5.0
#: Seconds that the speed is an average of.
_WINDOW = 10.0
#: Seconds before the bar appears. Most queries are done by then, and need not import rich.
_BAR_DELAY = 0.3
#: Columns of a terminal that has room for a bar.
_ROOM_FOR_A_BAR = 100
#: Seconds after which the progress mentions that no worker has taken the job.
_NO_WORKER = 10.0


class Clock:
    """The time since the first progress, and the time left if the rest is as quick."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._first: tuple[float, int] | None = None

    def text(self, now: float, progress: Progress) -> str:
        """The times, such as ``2 s, about 3 s left``; nobody knows how long a file takes that is tried once more."""
        counters = progress.counters
        self._begun = now if self._begun is None else self._begun
        passed = _time(now - self._begun)
        if not counters.total:
            # The time that a job waits for a worker says nothing about its speed.
            return passed
        then, before = self._first = self._first or (now, counters.recorded)
        done, rest = counters.recorded - before, counters.total - counters.recorded
        left = (now - then) / done * rest if done and not _only_retries(progress) else 0.0
        return f"{passed}, about {_time(left)} left" if left >= 1 else passed


class Speed:
    """Bytes per second over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now: float, done: int) -> float:
        """The speed at the time ``now`` in seconds, when ``done`` bytes are transferred."""
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        return (done - before) / (now - then) if now > then else 0.0


def remarks(counters: Counters) -> str:
    """The counts of everything that is not a plain success."""
    named = {
        "warnings": counters.warning,
        "failed": counters.failed,
        "missing": counters.missing,
        "already there": counters.present,
        "not DICOM": counters.skipped,
    }
    return ", ".join(f"{count} {name}" for name, count in named.items() if count)


def _remarks_of(progress: Progress) -> str:
    """The remarks about this attempt, and how many items the job has in all."""
    said = remarks(progress.counters.since(progress.earlier))
    of = f"{progress.counters.total} in all" if progress.earlier.recorded else ""
    return ", ".join(filter(None, [said, of]))


class View:
    """Shows the progress of a job while it is a context. This one shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, progress: Progress) -> None:
        """Show the progress, if it is time to."""


class LiveView(View):
    """A bar with files, speed, warnings, failures and the time left."""

    def __init__(self, title: str, console: Console | None = None, delay: float = _BAR_DELAY) -> None:
        self._title = title
        self._console = console
        self._begin = time.monotonic() + delay
        self._bar: Bar | None = None
        self._speed, self._clock = Speed(), Clock()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: Progress) -> None:
        now, counters = time.monotonic(), progress.counters
        speed, times = self._speed.update(now, counters.bytes), self._clock.text(now, progress)
        if self._bar is None:
            if now < self._begin:
                return
            self._bar = _new_bar(self._console)
            self._bar.add_task("", total=None, speed="", remarks="", times="")
            self._bar.start()
        self._bar.update(
            self._bar.task_ids[0],
            description=plain(f"{self._title}: {translated(_state(progress))}"),
            total=counters.since(progress.earlier).total or None,
            completed=counters.since(progress.earlier).recorded,
            speed=f"{size(speed)}/s" if counters.bytes else "",
            remarks=translated(_remarks_of(progress)),
            times=translated(times),
        )


def _new_bar(console: Console | None) -> Bar:
    from rich import progress
    from rich.console import Console

    console = console or Console(stderr=True, highlight=False, emoji=False)
    return progress.Progress(
        progress.SpinnerColumn(),
        # A reason is not markup, whatever brackets it has.
        progress.TextColumn("{task.description}", markup=False),
        # On a narrow terminal the bar gives way to the figures.
        *([progress.BarColumn()] if console.width >= _ROOM_FOR_A_BAR else []),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TextColumn("{task.fields[remarks]}", style="yellow"),
        progress.TextColumn("{task.fields[times]}"),
        console=console,
        transient=True,
    )


class PlainView(View):
    """A line now and then, at a pace that does not fill a log."""

    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal = terminal
        self._title = title
        self._begun = self._last_line = time.monotonic()
        self._last_text = ""
        #: Whether it has said that the remote is busy.
        self._busy = False
        self._speed, self._clock = Speed(), Clock()

    def update(self, progress: Progress) -> None:
        now, counters = time.monotonic(), progress.counters
        speed, times = self._speed.update(now, counters.bytes), self._clock.text(now, progress)
        busy = bool(progress.waiting_reason) and not self._busy
        self._busy |= busy
        if (now - self._last_line < PACE and not busy) or progress.state.finished:
            return
        parts = [f"{self._title}: {_state(progress)}"]
        if counters.total:
            attempt = counters.since(progress.earlier)
            parts.append(f"{attempt.recorded} of {attempt.total}")
            parts += [f"{size(speed)}/s"] if counters.bytes else []
            parts += [each for each in (_remarks_of(progress), times) if each]
        elif progress.state is JobState.QUEUED and now - self._begun > _NO_WORKER:
            parts.append("no worker has taken it yet")
        self._last_line = now
        text = ", ".join(parts)
        if text != self._last_text:
            self._terminal.say(text)
            self._last_text = text


def view(terminal: Terminal, title: str) -> View:
    """The view for where stderr goes."""
    if terminal.quiet:
        return View()
    return LiveView(title) if terminal.live else PlainView(terminal, title)


def _state(progress: Progress) -> str:
    if progress.cancel_requested and not progress.state.finished:
        return "cancelling"
    if progress.waiting_for:
        return _waiting(progress)
    if _only_retries(progress):
        return "retrying after an abort"
    if progress.waiting_reason and not progress.counters.recorded:
        return f"waiting: {progress.waiting_reason.removesuffix('.')}"
    if progress.pace and progress.state is JobState.RUNNING:
        return f"{progress.state}, paced: {progress.pace}"
    return "waiting for a worker" if progress.state is JobState.QUEUED else str(progress.state)


def _waiting(progress: Progress) -> str:
    if progress.waiting_until is not None:
        return (
            f"waiting for the hours of {progress.waiting_for}: until {progress.waiting_reason.removeprefix('until ')}"
        )
    return f"waiting for {progress.waiting_for}, which is down"


def _only_retries(progress: Progress) -> bool:
    """Whether all that is left are files at which the remote ended the association or fell silent."""
    counters = progress.counters
    return 0 < counters.total - counters.recorded <= progress.retrying


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
