"""Storage commitment as a peer does it (PS3.4 annex J): what it reports, and on which association."""

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

from pacs_tasks.testing.faults import EVERY_INSTANCE, Faults
from pacs_tasks.testing.instances import StoredBytes

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
_PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
#: Event Type ID (PS3.4 table J.3-2).
_ALL_COMMITTED: Final = 1
_SOME_FAILED: Final = 2
# Failure Reason (PS3.3 section C.14.1.1).
_NO_SUCH_INSTANCE: Final = 0x0112
_CLASS_CONFLICT: Final = 0x0119
#: Seconds to wait for the answer to a report.
_PATIENCE: Final = 30.0


def information_of(request: N_ACTION, syntax: UID) -> Dataset:
    """The Action Information of a request: Transaction UID and Referenced SOP Sequence."""
    encoded = request.ActionInformation or BytesIO()
    return decode(encoded, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)


def named_in(information: Dataset) -> tuple[str, ...]:
    """The SOP Instance UIDs that a request names."""
    return tuple(str(item.ReferencedSOPInstanceUID) for item in information.ReferencedSOPSequence)


def answer(assoc: Association, request: N_ACTION, context: PresentationContext, status: int) -> None:
    """Send the N-ACTION response (PS3.7 section 10.3.5.2)."""
    response = N_ACTION()
    response.MessageIDBeingRespondedTo = request.MessageID
    response.AffectedSOPClassUID = request.RequestedSOPClassUID
    response.AffectedSOPInstanceUID = request.RequestedSOPInstanceUID
    response.ActionTypeID = request.ActionTypeID
    response.Status = status
    assoc.dimse.send_msg(response, context.context_id or 0)


def report_about(information: Dataset, held: Mapping[str, StoredBytes], faults: Faults) -> Dataset:
    """What is reported: committed is what is held, in its class, unless the faults say otherwise."""
    report = Dataset()
    report.TransactionUID = faults.report_transaction_uid or information.TransactionUID
    committed, failed = [], []
    for item in information.ReferencedSOPSequence:
        uid = str(item.ReferencedSOPInstanceUID)
        if uid in faults.unreported:
            continue
        reason = _why_not(uid, str(item.ReferencedSOPClassUID), held, faults)
        about = Dataset()
        about.ReferencedSOPClassUID, about.ReferencedSOPInstanceUID = item.ReferencedSOPClassUID, uid
        if reason is None:
            committed.append(about)
        else:
            about.FailureReason = reason
            failed.append(about)
    if committed:
        report.ReferencedSOPSequence = committed
    if failed:
        report.FailedSOPSequence = failed
    return report


def _why_not(uid: str, sop_class_uid: str, held: Mapping[str, StoredBytes], faults: Faults) -> int | None:
    told = faults.uncommitted.get(uid, faults.uncommitted.get(EVERY_INSTANCE))
    if told is not None or uid not in held:
        return _NO_SUCH_INSTANCE if told is None else told
    return None if held[uid].sop_class_uid == sop_class_uid else _CLASS_CONFLICT


def send(
    assoc: Association, context: PresentationContext, report: Dataset, pause: Callable[[Association], bool]
) -> tuple[int | None, list[tuple[int, object]]]:
    """Send a report.

    Parameters
    ----------
    pause
        Waits a little, and tells whether to go on.

    Returns
    -------
    The status of the answer, None where there is none, and what else came before it: context id and message.
    """
    syntax = context.transfer_syntax[0]
    message = N_EVENT_REPORT()
    message.MessageID = 1
    message.AffectedSOPClassUID = UID(PUSH_MODEL)
    message.AffectedSOPInstanceUID = UID(_PUSH_MODEL_INSTANCE)
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
