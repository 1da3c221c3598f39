"""The answers of jobs that have one: echo, C-MOVE and C-GET."""

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
    """The answer to an :class:`~pacs_tasks.request.EchoRequest`; ``seconds`` from association request to response."""

    status: Status
    seconds: float

    @property
    def category(self) -> Category:
        return category_of(self.status)

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs."""
        return {"category": self.category, "status": f"{self.status.code:04X}", "seconds": self.seconds}


class MoveOutcome(Value):
    """The final answer to a C-MOVE: what the peer *says* it did. Only what has arrived counts as received."""

    status: Status
    suboperations: Suboperations = Suboperations()
    failed_sop_instance_uids: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def category(self) -> Category:
        return category_of_suboperations(self.status, self.suboperations)

    def summary(self) -> dict[str, Any]:
        """What may be seen in Celery's results, Flower and logs."""
        return {
            "category": self.category,
            "status": f"{self.status.code:04X}",
            **self.suboperations.model_dump(),
            "seconds": self.seconds,
        }


class GetOutcome(MoveOutcome):
    """The final answer to a C-GET, and the instances that came with it and are whole on disk."""

    instances: tuple[InstanceOutcome, ...] = ()

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "received": len(self.instances)}
