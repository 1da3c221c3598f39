"""A look at a job on its way."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from pacs_tasks.outcome import Counters


class JobState(StrEnum):
    """The state of a job. ``done`` means that there is an outcome, good or bad."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    #: It ended without an outcome: its error says why.
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in _FINISHED


_FINISHED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


class Progress(BaseModel):
    """A look at a job. Times are Unix seconds; ``seconds`` is how long it has been worked on."""

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
    #: Who works on it or planned it: the worker's name.
    worker: str = ""
    #: The error of a failed job, with its next step.
    error: str = ""
    #: The peer, as a person would name it.
    remote: str = ""
    #: A peer that is down and that the job waits for, since when (Unix seconds), and what it said last.
    waiting_for: str = ""
    waiting_since: float | None = None
    waiting_reason: str = ""

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None or self.finished is None else self.finished - self.started
