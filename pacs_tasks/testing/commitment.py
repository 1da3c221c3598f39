"""Storage commitment of a :class:`~pacs_tasks.testing.TestPACS` (PS3.4 annex J)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from pacs_tasks.testing.faults import EVERY_INSTANCE, Faults
from pacs_tasks.testing.instances import StoredBytes

#: Event Type ID (PS3.4 table J.3-2).
_ALL_COMMITTED: Final = 1
_SOME_FAILED: Final = 2
# Failure Reason (PS3.3 section C.14.1.1).
_NO_SUCH_INSTANCE: Final = 0x0112
_CLASS_CONFLICT: Final = 0x0119
#: Seconds to wait for the response to a report.
_PATIENCE: Final = 30.0


def information_of(request: N_ACTION, syntax: UID) -> Dataset:
    """Decode the Action Information of a request: Transaction UID and Referenced SOP Sequence."""
    encoded = request.ActionInformation or BytesIO()
    return decode(encoded, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)


def uids_of(information: Dataset) -> tuple[str, ...]:
    """Return the SOP Instance UIDs of a request."""
    return tuple(str(item.ReferencedSOPInstanceUID) for item in information.ReferencedSOPSequence)


def respond(assoc: Association, request: N_ACTION, context: PresentationContext, status: int) -> None:
    """Send the N-ACTION response (PS3.7 section 10.3.5.2)."""
    response = N_ACTION()
    response.MessageIDBeingRespondedTo = request.MessageID
    response.AffectedSOPClassUID = request.RequestedSOPClassUID
    response.AffectedSOPInstanceUID = request.RequestedSOPInstanceUID
    response.ActionTypeID = request.ActionTypeID
    response.Status = status
    assoc.dimse.send_msg(response, context.context_id or 0)


def report_on(information: Dataset, held: Mapping[str, StoredBytes], faults: Faults) -> Dataset:
    """Return a report: an instance that is held in its class is committed, unless the faults demand otherwise."""
    report = Dataset()
    report.TransactionUID = faults.report_transaction_uid or information.TransactionUID
    committed, failed = [], []
    for item in information.ReferencedSOPSequence:
        uid = str(item.ReferencedSOPInstanceUID)
        if uid in faults.unreported:
            continue
        reason = _failure_reason(uid, str(item.ReferencedSOPClassUID), held, faults)
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = item.ReferencedSOPClassUID, uid
        if reason is None:
            committed.append(reference)
        else:
            reference.FailureReason = reason
            failed.append(reference)
    if committed:
        report.ReferencedSOPSequence = committed
    if failed:
        report.FailedSOPSequence = failed
    return report


def _failure_reason(uid: str, sop_class_uid: str, held: Mapping[str, StoredBytes], faults: Faults) -> int | None:
    reason = faults.uncommitted.get(uid, faults.uncommitted.get(EVERY_INSTANCE))
    if reason is not None or uid not in held:
        return _NO_SUCH_INSTANCE if reason is None else reason
    return None if held[uid].sop_class_uid == sop_class_uid else _CLASS_CONFLICT


def send(
    assoc: Association, context: PresentationContext, report: Dataset, pause: Callable[[Association], bool]
) -> tuple[int | None, list[tuple[int, object]]]:
    """Send a report.

    Parameters
    ----------
    pause
        Waits briefly; returns False once the PACS stops or the remote is gone.

    Returns
    -------
    The status of the response, None if there was none, and the messages that came before it with their context ids.
    """
    syntax = context.transfer_syntax[0]
    message = N_EVENT_REPORT()
    message.MessageID = 1
    message.AffectedSOPClassUID = UID(StorageCommitmentPushModel)
    message.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
    message.EventTypeID = _SOME_FAILED if "FailedSOPSequence" in report else _ALL_COMMITTED
    encoded = encode(report, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    message.EventInformation = BytesIO(encoded or b"")
    assoc.dimse.send_msg(message, context.context_id or 0)
    others: list[tuple[int, object]] = []
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        context_id, found = assoc.dimse.get_msg()
        if isinstance(found, N_EVENT_REPORT):
            return found.Status, others
        if found is not None:
            others.append((context_id or 0, found))
        elif isinstance(assoc.dul.peek_next_pdu(), A_RELEASE) or not pause(assoc):
            break
    return None, others
