"""Waiting for the end of jobs, apart from the pause itself: both clients look again, and give up, by the same rules."""

from __future__ import annotations

import time
from collections.abc import Collection

from pacs_tasks.errors import JobNotReadyError
from pacs_tasks.outcome import JobState

#: Waiting is polling with one command. The pause is this share of the time since the wait began, so that the end of a
#: job is noticed soon however long it takes, within these bounds in seconds.
_SHARE = 0.05
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25
#: A pause is so many times as long as the read before it: thousands of jobs take long to read.
_READS = 4
#: Seconds without a change after which to check for a worker.
_STANDSTILL = 30.0


class Watch:
    """One wait: what was seen last, and since when.

    Parameters
    ----------
    timeout
        Seconds until it is overdue. None: never.
    check_after
        Seconds without a change after which it stands still. None: 30.
    """

    def __init__(self, timeout: float | None, check_after: float | None) -> None:
        self._begun = self._changed = self._read = time.monotonic()
        self._deadline = None if timeout is None else self._begun + timeout
        self._standstill = _STANDSTILL if check_after is None else check_after
        self._before: object = None

    def begin(self) -> None:
        """Note that reading begins."""
        self._read = time.monotonic()

    def stands_still(self, seen: object) -> bool:
        """Note what was read; return whether it is time to check that a worker serves this Redis."""
        now = time.monotonic()
        if seen != self._before:
            self._before, self._changed = seen, now
        elif now - self._changed > self._standstill:
            self._changed, self._standstill = now, _STANDSTILL
            return True
        return False

    @property
    def overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def pause(self) -> float:
        """Give the seconds until the next read."""
        now = time.monotonic()
        pause = min(max(_SHARE * (now - self._begun), _SHORTEST_PAUSE), _LONGEST_PAUSE)
        pause = max(pause, _READS * (now - self._read))
        return pause if self._deadline is None else max(0.0, min(pause, self._deadline - now))


def no_worker(job_id: str) -> JobNotReadyError:
    """Make the error for a job that nobody works on."""
    return JobNotReadyError(
        f"Job {job_id} makes no progress: no worker serves this Redis. Start one with `pacs-tasks worker`, then "
        f"run `pacs-tasks wait {job_id}`."
    )


def one_not_in_time(job_id: str, timeout: float | None, state: JobState) -> JobNotReadyError:
    """Make the error for a job that was waited for in vain."""
    return JobNotReadyError(
        f"Job {job_id} has not finished within {timeout:g} s (it is {state}) and continues. "
        f"Run `pacs-tasks wait {job_id}` to wait again."
    )


def some_not_in_time(timeout: float | None, waiting: Collection[str]) -> JobNotReadyError:
    """Make the error for several jobs that were waited for in vain."""
    return JobNotReadyError(
        f"{len(waiting)} jobs have not finished within {timeout:g} s and continue, such as {next(iter(waiting))}. "
        "Wait for them again."
    )
