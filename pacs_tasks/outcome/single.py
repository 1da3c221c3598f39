"""The outcomes of C-ECHO, C-MOVE and C-GET."""

from __future__ import annotations

from typing import Any

from pacs_tasks.outcome.instance import InstanceOutcome
from pacs_tasks.outcome.status import (
    Category,
    Status,
    Suboperations,
    Value,
    category_of,
    category_of_suboperations,
)


class EchoOutcome(Value):
    """The outcome of an :class:`~pacs_tasks.request.EchoRequest`; ``seconds`` from A-ASSOCIATE-RQ to C-ECHO-RSP."""

    status: Status
    seconds: float

    @property
    def category(self) -> Category:
        return category_of(self.status)

    def summary(self) -> dict[str, Any]:
        """Return what Celery's results, Flower and logs may show."""
        return {"category": self.category, "status": f"{self.status.code:04X}", "seconds": self.seconds}


class MoveOutcome(Value):
    """The outcome of a C-MOVE as the remote reports it. Only arrived instances count as received."""

    status: Status
    suboperations: Suboperations = Suboperations()
    failed_sop_instance_uids: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def category(self) -> Category:
        return category_of_suboperations(self.status, self.suboperations)

    def summary(self) -> dict[str, Any]:
        """Return what Celery's results, Flower and logs may show."""
        return {
            "category": self.category,
            "status": f"{self.status.code:04X}",
            **self.suboperations.model_dump(),
            "seconds": self.seconds,
        }


class GetOutcome(MoveOutcome):
    """The outcome of a C-GET, with the instances that are complete on disk."""

    instances: tuple[InstanceOutcome, ...] = ()

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "received": len(self.instances)}
