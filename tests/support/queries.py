"""One query over an association of its own."""

from __future__ import annotations

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.find.c_find import FindOperation, contexts_of
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.outcome import FindOutcome
from pacs_tasks.request import FindRequest


def find(request: FindRequest, local: LocalAE, timeouts: Timeouts, stop: StopCheck | None = None) -> FindOutcome:
    """Check the keys, open an association, query, release."""
    operation = FindOperation(request)
    with Association.open(local, request.remote, contexts_of(request), timeouts, stop) as assoc:
        return operation.run(assoc)
