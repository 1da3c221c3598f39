"""Outcomes: what came of a request, of each file or instance, and how far a job is."""

from __future__ import annotations

from pacs_tasks.outcome.find import Doubt, FindOutcome, SplitRange
from pacs_tasks.outcome.instance import InstanceCategory, InstanceOutcome, ShownPath
from pacs_tasks.outcome.single import EchoOutcome, GetOutcome, MoveOutcome
from pacs_tasks.outcome.status import Category, Status, StatusCategory, Suboperations
from pacs_tasks.outcome.transfer import (
    Counters,
    PreflightOutcome,
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
    "MoveOutcome",
    "Outcome",
    "PreflightOutcome",
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
