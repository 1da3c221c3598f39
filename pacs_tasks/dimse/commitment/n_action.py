"""N-ACTION: ask a peer to answer for instances that it was sent (storage commitment, PS3.4 section J.3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pacs_tasks.dimse import status
from pacs_tasks.dimse.commitment import n_event_report
from pacs_tasks.dimse.commitment.data_sets import PUSH_MODEL, PUSH_MODEL_INSTANCE, encode_request
from pacs_tasks.dimse.commitment.n_event_report import TakeReport
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import ContextRejectedError, PeerUnavailableError
from pacs_tasks.outcome import Status

log = logging.getLogger(__name__)

#: Action Type ID "Request Storage Commitment" (PS3.4 table J.3-1).
_REQUEST_STORAGE_COMMITMENT = 1


def ask(assoc: Association, transaction_uid: str, references: Sequence[tuple[str, str]], take: TakeReport) -> Status:
    """Ask for commitment; the status says whether the peer will see to it, its report comes later.

    Parameters
    ----------
    references
        SOP class and SOP instance of each.
    take
        For reports about earlier requests that come in between.

    Raises
    ------
    PeerUnavailableError
        If the association is lost before the answer.
    ContextRejectedError
        If the peer does not offer storage commitment.
    """
    context_id = _accepted_context(assoc)
    with assoc.exchange() as message_id:
        assoc.send(context_id, _request(message_id), encode_request(transaction_uid, references))
        while True:
            found_id, message = assoc.receive_command("the N-ACTION response")
            if message.field != command.N_EVENT_REPORT_RQ:
                break
            n_event_report.serve(assoc.stream, found_id, message, assoc.contexts_by_id[found_id], take)
        code = assoc.check_response(found_id == context_id, message, message_id, command.N_ACTION_RQ)
        if message.has_data_set:
            assoc.receive_data(context_id, "the rest of its answer")
    return status.action_status(code, message.text(command.ERROR_COMMENT))


def _accepted_context(assoc: Association) -> int:
    context_id = next((number for pair, number in assoc.accepted_contexts.items() if pair[0] == PUSH_MODEL), None)
    if context_id is None:
        raise ContextRejectedError(
            f"{assoc.remote} does not offer storage commitment to {assoc.local.ae_title}; verify without it, "
            "which asks by a query, or ask its administrator to allow it"
        )
    return context_id


def _request(message_id: int) -> bytes:
    return command.encode(
        {
            command.REQUESTED_SOP_CLASS_UID: PUSH_MODEL,
            command.COMMAND_FIELD: command.N_ACTION_RQ,
            command.MESSAGE_ID: message_id,
            command.REQUESTED_SOP_INSTANCE_UID: PUSH_MODEL_INSTANCE,
            command.ACTION_TYPE_ID: _REQUEST_STORAGE_COMMITMENT,
        },
        data_set=True,
    )


def listen(assoc: Association, seconds: float, take: TakeReport) -> bool:
    """Serve a report that comes on the association within ``seconds``; false once there is no association any more.

    Its end is no failure: a peer that was asked may report on another one.
    """
    if assoc.wire.closed:
        return False
    if not assoc.stream.has_input(seconds):
        return True
    try:
        with assoc.exchange():
            message = assoc.stream.receive_command("a report")
            if message is None:
                return False
            context_id, report = message
            if report.field != command.N_EVENT_REPORT_RQ:
                raise assoc.no_response("sent another message where a report was due; its log tells more")
            n_event_report.serve(assoc.stream, context_id, report, assoc.contexts_by_id[context_id], take)
    except PeerUnavailableError as error:
        log.info("no more reports on this association: %s", error.message)
        return False
    return True
