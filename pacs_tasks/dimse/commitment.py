"""Storage commitment (PS3.4 annex J): N-ACTION requests it, the remote answers with N-EVENT-REPORT.

The report arrives on the association of the request, or on one that the remote opens to our receiver.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    ITEM,
    LONGEST_UID,
    Data,
    Element,
    Encoding,
    MalformedError,
    encode_implicit,
    items,
    read_uids,
    uid_of,
    walk,
)
from pacs_tasks.dimse.scp.limits import NO_LIMITS, Intake
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.command import LONGEST_IDENTIFIER, Command, MessageStream
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.dimse.upper_layer.wire import SLICE, Wire
from pacs_tasks.errors import ContextRejectedError, PacsTasksError, PeerUnavailableError
from pacs_tasks.outcome import Status
from pacs_tasks.outcome.verification import CommitmentReport

log = logging.getLogger(__name__)

#: Called with each report; returns False if the transaction is unknown here. It may raise a PacsTasksError if it
#: cannot record the report.
OnReport = Callable[[CommitmentReport], bool]
#: Whether a Transaction UID is known here, so that the rest of its report is worth reading. It may raise as well.
IsKnown = Callable[[str], bool]

#: Transfer syntaxes in which a report is read.
REPORT_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
#: Every remote supports the default transfer syntax (PS3.5 section 10.1).
PUSH_MODEL_CONTEXT = Context(StorageCommitmentPushModel, (IMPLICIT_VR_LITTLE_ENDIAN,))

#: Action Type ID "Request Storage Commitment" (PS3.4 table J.3-1).
_REQUEST_STORAGE_COMMITMENT = 1
#: Event Type IDs "Successful" and "Failures Exist" (PS3.4 table J.3-2).
_EVENT_TYPES = frozenset({1, 2})

# Statuses of an N-EVENT-REPORT response (PS3.7 section 10.1.1.1.8).
_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_NO_SUCH_EVENT_TYPE = 0x0113
_INVALID_ARGUMENT_VALUE = 0x0115
_SOP_CLASS_NOT_SUPPORTED = 0x0122

_REFERENCED_SOP_CLASS_UID = 0x0008_1150
_REFERENCED_SOP_INSTANCE_UID = 0x0008_1155
_TRANSACTION_UID = 0x0008_1195
_FAILURE_REASON = 0x0008_1197
_FAILED_SOP_SEQUENCE = 0x0008_1198
_REFERENCED_SOP_SEQUENCE = 0x0008_1199
#: Instances of one report; a request names those of one job at most.
_MOST_REFERENCES = 200_000
#: Bytes in which the Transaction UID must end: only the Retrieve AE Title, (0008,0054), comes before it.
_BEGINNING = 4096
#: Reports that a process reads at once: the longest takes 16 MB and seconds of a core.
_AT_ONCE = 4
_reading = threading.BoundedSemaphore(_AT_ONCE)


# The request (N-ACTION)


def new_transaction_uid() -> str:
    """Return a UID that nobody can guess, so that a stranger cannot report for the remote (PS3.5 section B.2)."""
    return f"2.25.{secrets.randbits(128)}"


def request_commitment(
    assoc: Association, transaction_uid: str, references: Sequence[tuple[str, str]], on_report: OnReport
) -> Status:
    """Request commitment. The status says whether the remote accepts the request; its report comes later.

    Parameters
    ----------
    references
        SOP class UID and SOP Instance UID of each instance.
    on_report
        Called with reports about earlier requests that arrive before the response.

    Raises
    ------
    PeerUnavailableError
        If the association is lost before the response.
    ContextRejectedError
        If the remote does not offer storage commitment.
    """
    context = assoc.context_of(StorageCommitmentPushModel)
    if context is None:
        raise ContextRejectedError(
            f"{assoc.remote} does not offer storage commitment to {assoc.local.ae_title}. Verify without it, by a "
            "query, or ask its administrator to allow storage commitment."
        )
    context_id, _ = context
    with assoc.exchange(command.N_ACTION_RQ) as message_id:
        elements: dict[int, int | str] = {
            command.REQUESTED_SOP_CLASS_UID: StorageCommitmentPushModel,
            command.COMMAND_FIELD: command.N_ACTION_RQ,
            command.MESSAGE_ID: message_id,
            command.REQUESTED_SOP_INSTANCE_UID: StorageCommitmentPushModelInstance,
            command.ACTION_TYPE_ID: _REQUEST_STORAGE_COMMITMENT,
        }
        information = encode_request(transaction_uid, references)
        assoc.send(context_id, command.encode(elements, data_set=True), information)
        while True:
            found_id, message = assoc.receive_command("the N-ACTION response")
            if message.field != command.N_EVENT_REPORT_RQ:
                break
            answer_report(assoc.stream, found_id, message, assoc.contexts_by_id[found_id], on_report)
        code = assoc.check_response(found_id == context_id, message, message_id, command.N_ACTION_RQ)
        if message.has_data_set:
            assoc.receive_final_data(context_id, 0)
    return status.action_status(code, message.text(command.ERROR_COMMENT))


def encode_request(transaction_uid: str, references: Sequence[tuple[str, str]]) -> bytes:
    """Encode the Action Information of a request in Implicit VR Little Endian (PS3.4 section J.3.2.1.1).

    Parameters
    ----------
    references
        SOP class UID and SOP Instance UID of each instance.
    """
    sequence = b"".join(
        encode_implicit({
            ITEM: encode_implicit({
                _REFERENCED_SOP_CLASS_UID: sop_class_uid,
                _REFERENCED_SOP_INSTANCE_UID: sop_instance_uid,
            })
        })
        for sop_class_uid, sop_instance_uid in references
    )  # fmt: skip
    return encode_implicit({_TRANSACTION_UID: transaction_uid, _REFERENCED_SOP_SEQUENCE: sequence})


# The report (N-EVENT-REPORT)


def await_report(assoc: Association, seconds: float, on_report: OnReport) -> bool:
    """Wait up to ``seconds`` for a report on the association and answer it.

    Returns
    -------
    False once the association has ended. This is not a failure: the remote may report on another association.
    """
    if assoc.wire.closed:
        return False
    if not assoc.stream.has_input(seconds):
        return True
    try:
        with assoc.exchange(command.N_EVENT_REPORT_RQ):
            message = assoc.stream.receive_command("a report")
            if message is None:
                return False
            context_id, report = message
            if report.field != command.N_EVENT_REPORT_RQ:
                raise assoc.wire.lost("sent another message instead of a storage commitment report. Check its log.")
            answer_report(assoc.stream, context_id, report, assoc.contexts_by_id[context_id], on_report)
    except PeerUnavailableError as error:
        log.info("The association carries no more reports: %s", error.message)
        return False
    return True


def answer_report(
    stream: MessageStream,
    context_id: int,
    request: Command,
    pair: tuple[str, str],
    on_report: OnReport,
    *,
    is_known: IsKnown | None = None,
    intake: Intake | None = None,
) -> None:
    """Read a report, pass it on and respond to it: with success only once ``on_report`` has accepted it.

    Whoever may call can send reports, so one that nobody awaits is neither kept nor decoded.

    Parameters
    ----------
    pair
        SOP class and transfer syntax of the presentation context.
    is_known
        Called with the Transaction UID before the rest is read; None knows all.
    intake
        What the association may bring; None is anything.

    Raises
    ------
    PeerUnavailableError
        If the association is lost.
    """
    parts = _parts(stream, context_id, intake or Intake(NO_LIMITS, stream.wire)) if request.has_data_set else iter(())
    remote, content = stream.wire.remote, bytearray()
    code = _header_status(remote, request, pair[0])
    if code == _SUCCESS:
        _read(parts, content, _BEGINNING)
        code = _report_status(remote, lambda: _begins_known(content, pair[1], is_known))
    if code == _SUCCESS:
        with _one_of_few(stream.wire):
            _read(parts, content, LONGEST_IDENTIFIER)
            code = _report_status(remote, lambda: _record(remote, content, pair[1], on_report))
    for _ in parts:
        # The remote receives the response only once it has sent all.
        pass
    more: dict[int, int | str] = {
        command.AFFECTED_SOP_INSTANCE_UID: request.text(command.AFFECTED_SOP_INSTANCE_UID),
        command.EVENT_TYPE_ID: request.number(command.EVENT_TYPE_ID) or 0,
    }
    stream.respond(context_id, request, code, more)


def _parts(stream: MessageStream, context_id: int, intake: Intake) -> Iterator[memoryview]:
    """Receive the fragments of a report, as many as one may have. Each is valid until the next one is requested."""
    intake.begin()
    received = 0
    for part in stream.receive_data(context_id, "the rest of a report"):
        intake.drain(len(part))
        received += len(part)
        if received > LONGEST_IDENTIFIER:
            raise stream.wire.protocol_error("sent an endless report")
        yield part


def _read(parts: Iterator[memoryview], content: bytearray, wanted: int) -> None:
    """Add fragments until the content has ``wanted`` bytes, or all."""
    while len(content) < wanted and (part := next(parts, None)) is not None:
        content += part


@contextmanager
def _one_of_few(wire: Wire) -> Iterator[None]:
    """Wait until few other reports are read at once; the watch of the wire may end the wait."""
    while not _reading.acquire(timeout=SLICE):
        if wire.watch is not None:
            wire.watch()
    try:
        yield
    finally:
        _reading.release()


# Each of these gives the status of the response so far.


def _header_status(remote: object, request: Command, sop_class_uid: str) -> int:
    if sop_class_uid != StorageCommitmentPushModel:
        log.warning("%s sent an event report on a presentation context of another service", remote)
        return _SOP_CLASS_NOT_SUPPORTED
    if request.number(command.EVENT_TYPE_ID) not in _EVENT_TYPES:
        log.warning("%s sent an event type that storage commitment does not define", remote)
        return _NO_SUCH_EVENT_TYPE
    return _SUCCESS


def _report_status(remote: object, is_known: Callable[[], bool]) -> int:
    try:
        known = is_known()
    except ValueError as error:
        log.warning("%s sent a malformed storage commitment report: %s", remote, error)
        return _PROCESSING_FAILURE
    except PacsTasksError as error:
        # A failure status asks the remote to report again later.
        log.warning("A storage commitment report from %s could not be recorded: %s", remote, error.message)
        return _PROCESSING_FAILURE
    if not known:
        log.warning("%s reported about a transaction that is unknown or has expired", remote)
        return _INVALID_ARGUMENT_VALUE
    return _SUCCESS


# Each of these returns whether the transaction is known here.


def _begins_known(content: Data, syntax: str, is_known: IsKnown | None) -> bool:
    """Check the beginning of a report."""
    transaction_uid = read_uids(content[:_BEGINNING], syntax, (_TRANSACTION_UID,)).get(_TRANSACTION_UID, "")
    if not transaction_uid or len(transaction_uid) > LONGEST_UID:
        raise MalformedError("it does not name a transaction")
    return is_known is None or is_known(transaction_uid)


def _record(remote: object, content: Data, syntax: str, on_report: OnReport) -> bool:
    report = decode_report(content, syntax)
    known = on_report(report)
    if known:
        log.info("%s reported: %d instances committed, %d failed", remote, len(report.committed), len(report.failed))
    return known


def decode_report(content: Data, transfer_syntax_uid: str) -> CommitmentReport:
    """Decode the Event Information of a report (PS3.4 section J.3.3.1.1).

    An instance in both lists counts as failed. An item without a readable UID is ignored.

    Raises
    ------
    ValueError
        If the report is malformed or does not name a transaction.
    """
    encoding = Encoding.of(transfer_syntax_uid)
    transaction_uid = ""
    committed: set[str] = set()
    failed: dict[str, int] = {}
    for element in walk(content, encoding):
        if element.tag == _TRANSACTION_UID:
            transaction_uid = _uid(content, element)
        elif element.tag == _REFERENCED_SOP_SEQUENCE:
            committed.update(uid for uid, _ in _references(content, encoding, element))
        elif element.tag == _FAILED_SOP_SEQUENCE:
            failed.update(_references(content, encoding, element))
    if not transaction_uid:
        raise MalformedError("it does not name a transaction")
    return CommitmentReport(transaction_uid, frozenset(committed - failed.keys()), failed)


def _references(content: Data, encoding: Encoding, sequence: Element) -> list[tuple[str, int]]:
    """The SOP Instance UID and the Failure Reason of each item; "processing failure" if it has no reason."""
    found = []
    for number, item in enumerate(items(content, encoding, sequence)):
        if number >= _MOST_REFERENCES:
            raise MalformedError("it names too many instances")
        uid, reason = "", _PROCESSING_FAILURE
        for element in walk(item, encoding):
            if element.tag == _REFERENCED_SOP_INSTANCE_UID:
                uid = _uid(item, element)
            elif element.tag == _FAILURE_REASON and element.length == 2:
                value = item[element.position : element.position + 2]
                reason = int.from_bytes(value, "big" if encoding.big else "little")
        if uid:
            found.append((uid, reason))
    return found


def _uid(data: Data, element: Element) -> str:
    """The UID of an element; empty if it cannot be a UID."""
    if element.length is None or element.length > LONGEST_UID:
        return ""
    return uid_of(data[element.position : element.position + element.length])
