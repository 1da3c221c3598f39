"""The state and progress of a job."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from pacs_tasks.outcome import Counters


class JobState(StrEnum):
    """The state of a job. ``done``: there is an outcome, good or bad."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    #: It ended without an outcome; its error gives the reason.
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in _FINISHED


_FINISHED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


class Progress(BaseModel):
    """The progress of a job. Times are in Unix seconds; ``seconds`` is the time from start to end."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    job_id: str
    task: str
    state: JobState
    counters: Counters = Counters()
    created: float
    started: float | None = None
    finished: float | None = None
    cancel_requested: bool = False
    attempt: int = 1
    #: The name of the worker that runs or planned it.
    worker: str = ""
    #: The message of a failed job.
    error: str = ""
    #: The remote, for people.
    remote: str = ""
    #: The remote that is down and that the job waits for, since when, and its last error.
    waiting_for: str = ""
    waiting_since: float | None = None
    waiting_reason: str = ""

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None or self.finished is None else self.finished - self.started
