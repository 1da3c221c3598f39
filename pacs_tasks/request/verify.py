"""Requests about another job: what has become of what it sent."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field

from pacs_tasks.request.base import Request


class JobRequest(Request):
    """What is asked about another job, by its id. ``remote`` and the like are those of that job where left out."""

    job_id: str = Field(min_length=1, max_length=255)

    def about(self, other: Request) -> Self:
        """The same request, with what it leaves out taken from the request of the job that it is about."""
        left_out = {"remote", "local", "timeout"} - self.model_fields_set
        return self.model_copy(update={name: getattr(other, name) for name in left_out})


class VerifyRequest(JobRequest):
    """Does the peer list each instance that the job ``job_id`` sent? (C-FIND at IMAGE level, PS3.4 section C.4.1)"""

    task: ClassVar[str] = "pacs_tasks.verify"


class CommitRequest(JobRequest):
    """Have the peer answer for each instance that the job ``job_id`` sent (storage commitment, PS3.4 annex J).

    ``patience`` is how many seconds it may take for its next report; left out, the worker's settings say.
    """

    task: ClassVar[str] = "pacs_tasks.commit"

    patience: float | None = Field(default=None, ge=0, le=86_400)
