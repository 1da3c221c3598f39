"""Outcomes: what came of a request, of each file or instance, and how far a job is."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

from pacs_tasks.outcome.instance import (
    Category,
    InstanceCategory,
    InstanceOutcome,
    ShownPath,
    Status,
    StatusCategory,
    Suboperations,
)
from pacs_tasks.outcome.single import (
    Doubt,
    EchoOutcome,
    FindOutcome,
    GetOutcome,
    MoveOutcome,
    OfferedService,
    SplitRange,
)
from pacs_tasks.outcome.transfer import (
    Counters,
    JobState,
    PreflightOutcome,
    Progress,
    Proof,
    ProposedPair,
    StudyOutcome,
    TransferOutcome,
)
from pacs_tasks.outcome.verification import Commitment, CommitmentState, CommitOutcome, VerifyOutcome

__all__ = [
    "Category",
    "CommitOutcome",
    "Commitment",
    "CommitmentState",
    "Counters",
    "Doubt",
    "EchoOutcome",
    "FindOutcome",
    "GetOutcome",
    "InstanceCategory",
    "InstanceOutcome",
    "JobState",
    "MoveOutcome",
    "OfferedService",
    "Outcome",
    "PreflightOutcome",
    "Progress",
    "Proof",
    "ProposedPair",
    "ShownPath",
    "SplitRange",
    "Status",
    "StatusCategory",
    "StudyOutcome",
    "Suboperations",
    "TransferOutcome",
    "VerifyOutcome",
]

Outcome = (
    EchoOutcome
    | TransferOutcome
    | PreflightOutcome
    | FindOutcome
    | MoveOutcome
    | GetOutcome
    | VerifyOutcome
    | CommitOutcome
)
