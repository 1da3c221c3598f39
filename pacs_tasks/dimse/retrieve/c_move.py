"""C-MOVE: the remote sends instances to another AE (PS3.4 section C.4.2, PS3.7 section 9.1.4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.find import models
from pacs_tasks.dimse.retrieve.delivery import CheckArrived, retrieve
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.errors import ContextRejectedError
from pacs_tasks.outcome import MoveOutcome, Status
from pacs_tasks.request import MoveRequest

#: "Refused: Move Destination unknown" (PS3.4 table C.4-2).
DESTINATION_UNKNOWN = 0xA801
#: Cxxx, "Failed: Unable to process".
_UNABLE = 0xC000


def move(
    request: MoveRequest,
    local: LocalAE,
    timeouts: Timeouts,
    stop: StopCheck | None = None,
    *,
    check_arrived: CheckArrived | None = None,
    on_association: Callable[[Association], None] | None = None,
    message_id: int = 0,
) -> MoveOutcome:
    """Have the remote send instances to ``request.move_aet``, until its final status.

    Parameters
    ----------
    check_arrived
        Reports the instances that have arrived at the destination; see :func:`retrieve`.
    on_association
        Called before the request is sent, and may raise.
    message_id
        Of the request, which remotes pass on to the destination as Move Originator Message ID; 0 chooses one.

    Raises
    ------
    AssociationError, JobCancelledError
        As :meth:`Association.open` and :func:`retrieve`, and if the remote does not offer C-MOVE.
    """
    started = time.monotonic()
    contexts = models.retrieve_contexts(models.MOVE, request.query_model)
    with Association.open(local, request.remote, contexts, timeouts, stop) as assoc:
        context = models.accepted(assoc, models.MOVE, models.models_of(request.query_model))
        if context is None:
            raise ContextRejectedError(
                f"{assoc.remote} does not offer C-MOVE. Retrieve by C-GET (--method get), or ask its administrator to "
                "allow C-MOVE."
            )
        model, context_id, _ = context
        if on_association is not None:
            on_association(assoc)
        final = retrieve(
            assoc,
            context_id,
            request,
            model,
            check_arrived=check_arrived,
            message_id=message_id,
        )
    outcome = MoveOutcome(**final._asdict(), seconds=time.monotonic() - started)
    if not refuses_destination(outcome, request.sop_instance_uids):
        return outcome
    return outcome.model_copy(update={"status": _explained(outcome.status, request)})


def refuses_destination(outcome: MoveOutcome, sop_instance_uids: Collection[str]) -> bool:
    """Whether the remote does not know the destination: A801, or probably Cxxx before the first sub-operation.

    Orthanc answers C000 if it does not know the destination or cannot reach it. To a list of instances it also answers
    so if it does not hold one of them, so a list of several proves nothing.
    """
    code = outcome.status.code
    unable = code & 0xF000 == _UNABLE and not outcome.suboperations.total
    return code == DESTINATION_UNKNOWN or (unable and len(sop_instance_uids) <= 1)


def _explained(found: Status, request: MoveRequest) -> Status:
    """Name the destination, the cause of the most frequent failure of all."""
    step = (
        f"Ask its administrator to add {request.move_aet} with the host and port of its receiver, or retrieve by C-GET "
        "(--method get)."
    )
    if found.code == DESTINATION_UNKNOWN:
        meaning = f"{request.remote} does not know the move destination {request.move_aet!r}. {step}"
    else:
        meaning = (
            f"{request.remote} sent nothing: it probably does not know the move destination {request.move_aet!r}, or "
            f"cannot reach it. {step}"
        )
    return found.model_copy(update={"meaning": meaning})
