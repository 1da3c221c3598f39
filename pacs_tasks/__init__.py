"""DICOM transfers as Celery tasks over Redis.

Everything that a caller needs is here; ARCHITECTURE.md shows how it hangs together. Each name is imported when it is
first used, so that a part of the package loads nothing of the others: the network floor no Celery, the asking side no
pynetdicom. ``__init__.pyi`` says the same to type checkers.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "pacs_tasks.ae": (
        "LocalAE",
        "RemoteAE",
        "TLS",
    ),
    "pacs_tasks.fleet.associations": ("Associations",),
    "pacs_tasks.client": ("PacsClient",),
    "pacs_tasks.errors": (
        "AssociationError",
        "AssociationRejectedError",
        "BrokerUnavailableError",
        "ConfigurationError",
        "ContextRejectedError",
        "InvalidRequestError",
        "JobCancelledError",
        "JobError",
        "JobFailedError",
        "JobNotFoundError",
        "JobNotReadyError",
        "NotDicomError",
        "PeerBusyError",
        "PacsTasksError",
        "PeerUnavailableError",
        "PeerUnreachableError",
        "TLSError",
        "UnreadableInputError",
    ),
    "pacs_tasks.client.job": ("Job",),
    "pacs_tasks.outcome": (
        "Category",
        "Counters",
        "Doubt",
        "EchoOutcome",
        "FindOutcome",
        "GetOutcome",
        "InstanceCategory",
        "InstanceOutcome",
        "MoveOutcome",
        "PreflightOutcome",
        "Proof",
        "Status",
        "StatusCategory",
        "StudyOutcome",
        "Suboperations",
        "TransferOutcome",
    ),
    "pacs_tasks.outcome.verification": (
        "CommitOutcome",
        "Commitment",
        "CommitmentState",
        "VerifyOutcome",
    ),
    "pacs_tasks.outcome.progress": (
        "JobState",
        "Progress",
    ),
    "pacs_tasks.ledger.receipts": ("Receipt",),
    "pacs_tasks.ledger.matches": ("RowAnswer",),
    "pacs_tasks.request": (
        "CommitRequest",
        "EchoRequest",
        "FindBatchRequest",
        "FindRequest",
        "FindRow",
        "GetRequest",
        "Level",
        "MoveRequest",
        "PreflightRequest",
        "QueryModel",
        "RetrieveMethod",
        "RetrieveRequest",
        "Selection",
        "StoreDirectoryRequest",
        "StoreRequest",
        "VerifyRequest",
    ),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605 - a list, as it should be


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
