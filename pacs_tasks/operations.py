"""Which outcome each task has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pacs_tasks.outcome import EchoOutcome, FindOutcome, GetOutcome, MoveOutcome, PreflightOutcome, TransferOutcome
from pacs_tasks.outcome.verification import CommitOutcome, VerifyOutcome

Outcome = (
    PreflightOutcome
    | EchoOutcome
    | FindOutcome
    | MoveOutcome
    | GetOutcome
    | TransferOutcome
    | VerifyOutcome
    | CommitOutcome
)

OUTCOMES: Mapping[str, type[Outcome]] = MappingProxyType(
    {
        "pacs_tasks.echo": EchoOutcome,
        "pacs_tasks.store_file": TransferOutcome,
        "pacs_tasks.store_directory": TransferOutcome,
        "pacs_tasks.preflight": PreflightOutcome,
        "pacs_tasks.find": FindOutcome,
        "pacs_tasks.find_batch": TransferOutcome,
        "pacs_tasks.move": MoveOutcome,
        "pacs_tasks.get": GetOutcome,
        "pacs_tasks.retrieve": TransferOutcome,
        "pacs_tasks.verify": VerifyOutcome,
        "pacs_tasks.commit": CommitOutcome,
    }
)
