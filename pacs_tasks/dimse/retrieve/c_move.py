"""C-MOVE: the remote sends instances to another AE (PS3.4 section C.4.2, PS3.7 section 9.1.4)."""

from __future__ import annotations

import time
from collections.abc import Callable

from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.retrieve.delivery import CheckArrived, retrieve
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import ContextRejectedError
from pacs_tasks.outcome import MoveOutcome, Status, Suboperations
from pacs_tasks.request import MoveRequest

#: Every remote supports the default transfer syntax (PS3.5 section 10.1), and only it holds a UI value above 64 KiB.
_CONTEXT = Context(StudyRootQueryRetrieveInformationModelMove, (IMPLICIT_VR_LITTLE_ENDIAN,))
_DESTINATION_UNKNOWN = 0xA801


def move(
    request: MoveRequest,
    local: LocalAE,
    timeouts: Timeouts,
    stop: StopCheck | None = None,
    *,
    on_suboperations: Callable[[Suboperations], None] | None = None,
    check_arrived: CheckArrived | None = None,
) -> MoveOutcome:
    """Have the remote send instances to ``request.move_aet``, until its final status.

    Parameters
    ----------
    on_suboperations
        Called with the counts of each pending response.
    check_arrived
        Reports the instances that have arrived at the destination; see :func:`retrieve`.

    Raises
    ------
    AssociationError, JobCancelledError
        As :meth:`Association.open` and :func:`retrieve`, and if the remote does not offer C-MOVE.
    """
    started = time.monotonic()
    with Association.open(local, request.remote, [_CONTEXT], timeouts, stop) as assoc:
        context = assoc.context_of(StudyRootQueryRetrieveInformationModelMove)
        if context is None:
            raise ContextRejectedError(
                f"{assoc.remote} does not offer C-MOVE in the Study Root model. Retrieve by C-GET (--method get), or "
                "ask its administrator to allow C-MOVE."
            )
        final = retrieve(
            assoc,
            context[0],
            request,
            lambda code, comment: _explained(status.move_status(code, comment), request),
            check_arrived=check_arrived,
            on_counts=on_suboperations,
        )
    return MoveOutcome(**final._asdict(), seconds=time.monotonic() - started)


def _explained(found: Status, request: MoveRequest) -> Status:
    """Name the destination in the meaning of A801, the most frequent failure of all."""
    if found.code != _DESTINATION_UNKNOWN:
        return found
    return found.model_copy(
        update={
            "meaning": f"{request.remote} does not know the move destination {request.move_aet!r}. Ask its "
            f"administrator to add {request.move_aet} with the host and port of its receiver, or retrieve by C-GET "
            "(--method get)."
        }
    )
