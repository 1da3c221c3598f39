"""N-EVENT-REPORT: a peer reports what became of a request for storage commitment (PS3.4 section J.3.3).

It comes on the association that asked, or on one that the peer opens to our receiver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pacs_tasks.dimse.commitment.data_sets import PUSH_MODEL, decode_report
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.dimse.upper_layer.stream import MessageStream
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.outcome.verification import CommitmentReport

log = logging.getLogger(__name__)

#: Takes a report; false if the transaction is none of ours. It may raise one of our errors if it cannot keep it.
TakeReport = Callable[[CommitmentReport], bool]

# Event Type ID (PS3.4 table J.3-2).
_ALL_COMMITTED = 1
_SOME_FAILED = 2

# PS3.7 section 10.1.1.1.8.
_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_NO_SUCH_EVENT_TYPE = 0x0113
_INVALID_ARGUMENT_VALUE = 0x0115
_SOP_CLASS_NOT_SUPPORTED = 0x0122


def serve(stream: MessageStream, context_id: int, request: Command, pair: tuple[str, str], take: TakeReport) -> None:
    """Read a report, have it taken, and answer: with success only when it is taken.

    Parameters
    ----------
    pair
        SOP class and transfer syntax of the presentation context.

    Raises
    ------
    PeerUnavailableError
        If the association is lost.
    """
    content = stream.receive_identifier(context_id, "the rest of a report") if request.has_data_set else b""
    code = _taken(stream, request, content, pair, take)
    elements: dict[int, int | str] = {
        command.AFFECTED_SOP_CLASS_UID: request.text(command.AFFECTED_SOP_CLASS_UID),
        command.COMMAND_FIELD: command.N_EVENT_REPORT_RQ | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: request.number(command.MESSAGE_ID) or 0,
        command.STATUS: code,
        command.AFFECTED_SOP_INSTANCE_UID: request.text(command.AFFECTED_SOP_INSTANCE_UID),
        command.EVENT_TYPE_ID: request.number(command.EVENT_TYPE_ID) or 0,
    }
    stream.send(context_id, command.encode(elements, data_set=False))


def _taken(stream: MessageStream, request: Command, content: bytes, pair: tuple[str, str], take: TakeReport) -> int:
    """Give the status of the answer."""
    peer = stream.wire.peer
    if pair[0] != PUSH_MODEL:
        log.warning("%s reports an event of a service that was not agreed upon", peer)
        return _SOP_CLASS_NOT_SUPPORTED
    if request.number(command.EVENT_TYPE_ID) not in {_ALL_COMMITTED, _SOME_FAILED}:
        log.warning("%s reports an event that storage commitment does not have", peer)
        return _NO_SUCH_EVENT_TYPE
    try:
        report = decode_report(content, pair[1])
        known = take(report)
    except ValueError as error:
        log.warning("%s sent a report that cannot be read: %s", peer, error)
        return _PROCESSING_FAILURE
    except PacsTasksError as error:
        # It should report again later.
        log.warning("a report of %s could not be kept: %s", peer, error.message)
        return _PROCESSING_FAILURE
    if not known:
        log.warning("%s reports about a transaction that is none of ours, or is too old", peer)
        return _INVALID_ARGUMENT_VALUE
    log.info("%s reports: %d instances committed, %d failed", peer, len(report.committed), len(report.failed))
    return _SUCCESS
