"""How a job is getting on, on stderr: a bar that moves where somebody looks, plain lines where a file listens."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Protocol, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from pacs_tasks.cli.output.terminal import Terminal
from pacs_tasks.outcome import Counters
from pacs_tasks.outcome.progress import JobState, Progress

#: Seconds between two plain lines.
PACE = 5.0
#: Seconds over which the speed is taken.
_WINDOW = 10.0
#: Columns of a terminal that has room for a bar, and for the time that has passed as well.
_ROOM_FOR_A_BAR = 80
_ROOM_FOR_ALL = 100
#: Seconds after which a job that nobody has taken is worth a word.
_LONELY = 10.0


class View(Protocol):
    """Shows looks at a job while it is a context."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, progress: Progress) -> None: ...


class Speed:
    """Bytes per second over the last seconds."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    def update(self, now: float, done: int) -> float:
        """The speed now that ``done`` bytes are through; ``now`` in seconds."""
        self._looks.append((now, done))
        while len(self._looks) > 2 and now - self._looks[0][0] > _WINDOW:
            self._looks.popleft()
        then, before = self._looks[0]
        return (done - before) / (now - then) if now > then else 0.0


def size(count: float) -> str:
    """Bytes as people read them, in powers of 1000 as disks and networks count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as people read them: "0.04 s", "12.3 s"."""
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"


def remarks(counters: Counters) -> str:
    """What is not plain success, in a few words."""
    named = {
        "warnings": counters.warning,
        "failed": counters.failed,
        "missing": counters.missing,
        "already there": counters.present,
        "no DICOM": counters.skipped,
    }
    return ", ".join(f"{count} {name}" for name, count in named.items() if count)


class LiveView:
    """The bar: files, bytes per second, warnings, failures, time left."""

    def __init__(self, terminal: Terminal, title: str) -> None:
        width = terminal.talk.width
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            # What a narrow terminal has no room for goes first where figures would be cut short.
            *([BarColumn()] if width >= _ROOM_FOR_A_BAR else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[remarks]}", style="yellow"),
            *([TimeElapsedColumn()] if width >= _ROOM_FOR_ALL else []),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=terminal.talk,
            transient=True,
        )
        self._title = title
        self._task = self._bar.add_task(f"{title}: waiting", total=None, speed="", remarks="")
        self._speed = Speed()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, progress: Progress) -> None:
        counters = progress.counters
        speed = self._speed.update(time.monotonic(), counters.bytes)
        self._bar.update(
            self._task,
            description=f"{self._title}: {_state(progress)}",
            total=counters.total or None,
            completed=counters.recorded,
            speed=f"{size(speed)}/s" if counters.bytes else "",
            remarks=remarks(counters),
        )


class PlainView:
    """A line now and then, at a pace that does not fill a log."""

    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal = terminal
        self._title = title
        self._begun = self._last_line = time.monotonic()
        self._last_text = ""
        self._speed = Speed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, progress: Progress) -> None:
        now, counters = time.monotonic(), progress.counters
        speed = self._speed.update(now, counters.bytes)
        if now - self._last_line < PACE or progress.state.finished:
            return
        parts = [f"{self._title}: {_state(progress)}"]
        if counters.total:
            parts.append(f"{counters.recorded} of {counters.total}")
            parts += [f"{size(speed)}/s"] if counters.bytes else []
            parts += [each for each in (remarks(counters), _time_left(counters, now - self._begun)) if each]
        elif progress.state is JobState.QUEUED and now - self._begun > _LONELY:
            parts.append("no worker has taken it yet")
        self._last_line = now
        text = ", ".join(parts)
        if text != self._last_text:
            self._terminal.say(text)
            self._last_text = text


class NoView(PlainView):
    """Nothing at all."""

    def update(self, progress: Progress) -> None:
        pass


def view(terminal: Terminal, title: str) -> View:
    """The view that fits where stderr goes."""
    if terminal.quiet:
        return NoView(terminal, title)
    return LiveView(terminal, title) if terminal.live else PlainView(terminal, title)


def _state(progress: Progress) -> str:
    if progress.cancel_requested and not progress.state.finished:
        return "cancelling"
    if progress.waiting_for:
        return f"waiting for {progress.waiting_for}, which is down"
    return "waiting for a worker" if progress.state is JobState.QUEUED else str(progress.state)


def _time_left(counters: Counters, seconds: float) -> str:
    if not counters.recorded or counters.recorded >= counters.total:
        return ""
    left = seconds / counters.recorded * (counters.total - counters.recorded)
    return f"about {left:.0f} s left" if left < 120 else f"about {left / 60:.0f} min left"
