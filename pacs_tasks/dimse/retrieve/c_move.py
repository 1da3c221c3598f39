"""C-MOVE: have the peer send instances to another AE (PS3.4 section C.4.2, PS3.7 section 9.1.4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse import status
from pacs_tasks.dimse.find import query
from pacs_tasks.dimse.retrieve import suboperations as retrieval
from pacs_tasks.dimse.retrieve.delivery import AllHereError, Delivery, Look, unfinished
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.outcome import MoveOutcome, Status, StatusCategory, Suboperations
from pacs_tasks.request import MoveRequest

_DESTINATION_UNKNOWN = 0xA801


def move(  # noqa: PLR0917 - what it needs, then what few callers give
    request: MoveRequest,
    local: LocalAE,
    timeouts: Timeouts,
    stop: StopCheck | None = None,
    on_suboperations: Callable[[Suboperations], None] | None = None,
    look: Look | None = None,
) -> MoveOutcome:
    """Ask the peer to send, and follow it to its final status.

    Parameters
    ----------
    on_suboperations
        Called with the counts of each pending response.
    look
        Tells what has come to where the peer sends it. As long as more comes, the peer is not silent; once all is
        there, the final response is not waited for long.

    Raises
    ------
    PeerUnavailableError, AssociationRejectedError
        As :meth:`Association.open`, and when the association is lost before the final status.
    PeerStalledError
        As :class:`Delivery`.
    ContextRejectedError
        If the peer offers no C-MOVE.
    JobCancelledError
        If ``stop`` said so and the peer did not answer C-CANCEL; where it did, the outcome says so.
    """
    started = time.monotonic()
    contexts = [query.retrieve_context(query.STUDY_ROOT_MOVE)]
    with Association.open(local, request.remote, contexts, timeouts, stop) as assoc:
        context_id, _ = query.accepted_context(assoc, query.STUDY_ROOT_MOVE)
        said, counts = unfinished(request.remote), Suboperations()
        failed: tuple[str, ...] = ()
        with (
            suppress(AllHereError),
            assoc.exchange() as message_id,
            Delivery(assoc, context_id, message_id, look) as delivery,
        ):
            assoc.send(context_id, _request(request, message_id), retrieval.encode_identifier(request))
            while True:
                answer, code = assoc.receive_response(context_id, message_id, command.C_MOVE_RQ)
                content = assoc.receive_data(context_id, "the rest of its answer") if answer.has_data_set else b""
                counts = retrieval.suboperations(answer)
                found = _explained(status.move_status(code, answer.text(command.ERROR_COMMENT)), request)
                if found.category is not StatusCategory.PENDING:
                    said, failed = found, retrieval.failed_uids(content)
                    break
                delivery.counted(counts)
                if on_suboperations is not None:
                    on_suboperations(counts)
    return MoveOutcome(
        status=said, suboperations=counts, failed_sop_instance_uids=failed, seconds=time.monotonic() - started
    )


def _request(request: MoveRequest, message_id: int) -> bytes:
    return command.encode(
        {
            command.AFFECTED_SOP_CLASS_UID: query.STUDY_ROOT_MOVE,
            command.COMMAND_FIELD: command.C_MOVE_RQ,
            command.MESSAGE_ID: message_id,
            command.MOVE_DESTINATION: request.move_aet,
            command.PRIORITY: command.MEDIUM,
        },
        data_set=True,
    )


def _explained(said: Status, request: MoveRequest) -> Status:
    """A801 is the commonest failure of all: name whom the peer does not know."""
    if said.code != _DESTINATION_UNKNOWN:
        return said
    return said.model_copy(
        update={
            "meaning": f"{request.remote} does not know the move destination {request.move_aet!r}; ask its "
            f"administrator to add {request.move_aet} with the host and port of its receiver, or retrieve by C-GET "
            "(--method get)"
        }
    )
