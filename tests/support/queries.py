"""One query over an association of its own."""

from __future__ import annotations

from typing import Any

from pacs_tasks.ae import AnswerLimits, LocalAE
from pacs_tasks.dimse.find.c_find import FindOperation, contexts_of
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.outcome import FindOutcome
from pacs_tasks.request import FindRequest


def find(request: FindRequest, local: LocalAE, timeouts: Timeouts, stop: StopCheck | None = None) -> FindOutcome:
    """Check the keys, open an association, query, release."""
    matches: list[dict[str, Any]] = []
    operation = FindOperation(request, AnswerLimits(), matches)
    with Association.open(local, request.remote, contexts_of(request), timeouts, stop) as assoc:
        return operation.run(assoc).model_copy(update={"matches": tuple(matches), "kept": 0})
