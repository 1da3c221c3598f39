"""The category and the meaning of DIMSE statuses, with a next step for people.

Codes, categories and meanings are pynetdicom's (PS3.7 annex C, PS3.4 annexes B and C). Added here are the next steps,
which failures are transient, and a meaning for codes that pynetdicom does not name. A code that nobody has defined is a
permanent failure: unknown is never success.
"""

from __future__ import annotations

from collections.abc import Mapping

from pynetdicom import status

from pacs_tasks.outcome import Status, StatusCategory

_CATEGORIES: Mapping[str, StatusCategory] = {
    status.STATUS_SUCCESS: StatusCategory.SUCCESS,
    status.STATUS_WARNING: StatusCategory.WARNING,
    status.STATUS_PENDING: StatusCategory.PENDING,
    status.STATUS_CANCEL: StatusCategory.CANCEL,
}
#: Failures after which the same request may succeed: duplicate invocation and resource limitation.
_TRANSIENT = frozenset((0x0210, 0x0213))

#: Matching or sub-operations terminated due to a Cancel request (PS3.4 tables C.4-1 to C.4-3).
CANCELLED = 0xFE00
#: C-STORE: the remote already holds an instance with this UID (PS3.7 section C.5.8).
DUPLICATE_SOP_INSTANCE = 0x0111

#: Where pynetdicom has no words, or not the Standard's.
_MEANINGS: Mapping[int, str] = {
    0x0000: "Success",
    0x0001: "Requested optional attributes are not supported",
    DUPLICATE_SOP_INSTANCE: "Duplicate SOP Instance",
    0x0131: "Duplicate transaction UID",
    CANCELLED: "Cancelled",
}

#: Characters of an Error Comment that are kept; VR LO allows 64.
_LONGEST_COMMENT = 256

_ASK_TO_ALLOW = "Ask the administrator of the PACS to allow it."
_CHECK_LOG = "Check the log of the PACS."
_WAIT = "Wait, and inform the administrator of the PACS if it persists."
#: For any service (PS3.7 annex C).
_STEPS: Mapping[int, str] = {
    DUPLICATE_SOP_INSTANCE: "The PACS already holds an instance with this UID.",
    0x0112: "The PACS does not hold it.",
    0x0117: "Check the SOP Instance UID against PS3.5 section 9.1.",
    0x0118: _ASK_TO_ALLOW,
    0x0119: "The PACS holds this UID in another SOP class.",
    0x0122: _ASK_TO_ALLOW,
    0x0123: "The PACS does not offer this action.",
    0x0124: "Ask the administrator of the PACS to allow it for our AE title.",
    0x0131: "The PACS mistakes the request for an earlier one.",
    0x0210: "The PACS is still processing a message with this id.",
    0x0211: "The PACS does not offer this service.",
    0x0213: "Try again later.",
}
_STORE_STEPS: Mapping[int, str] = {
    0x0107: "The PACS stored the instance but did not recognise some attributes.",
    0x0116: "The PACS stored the instance although a value is out of its range.",
    0xB000: "The PACS stored the instance with some data elements changed.",
    0xB006: "The PACS stored the instance without some data elements.",
    0xB007: "The PACS stored the instance all the same.",
}
_FIND_STEPS: Mapping[int, str] = {
    0xA900: "Check whether the PACS supports this level and these keys.",
    0xC000: "Query fewer or other keys.",
    CANCELLED: "There may be more matches.",
}
_RETRIEVE_STEPS: Mapping[int, str] = {
    0xA801: "Ask the administrator of the PACS to add this AE title with the host and port of the receiver, or "
    "retrieve by C-GET (--method get).",
    0xA900: "Check whether the PACS supports this level and these keys.",
    0xB000: "Compare the instances that arrived, then retrieve again.",
    CANCELLED: "Some instances may be missing.",
}


def store_status(code: int, comment: str = "") -> Status:
    """Give the status of a C-STORE response (PS3.4 section B.2.3)."""
    return _status(code, comment, status.STORAGE_SERVICE_CLASS_STATUS, _STORE_STEPS)


def find_status(code: int, comment: str = "") -> Status:
    """Give the status of a C-FIND response (PS3.4 section C.4.1.1.4)."""
    return _status(code, comment, status.QR_FIND_SERVICE_CLASS_STATUS, _FIND_STEPS)


def move_status(code: int, comment: str = "") -> Status:
    """Give the status of a C-MOVE response (PS3.4 section C.4.2.1.5)."""
    return _status(code, comment, status.QR_MOVE_SERVICE_CLASS_STATUS, _RETRIEVE_STEPS)


def get_status(code: int, comment: str = "") -> Status:
    """Give the status of a C-GET response (PS3.4 section C.4.3.1.4)."""
    return _status(code, comment, status.QR_GET_SERVICE_CLASS_STATUS, _RETRIEVE_STEPS)


def echo_status(code: int, comment: str = "") -> Status:
    """Give the status of a C-ECHO response (PS3.7 section 9.1.5.1.4)."""
    return _status(code, comment, status.VERIFICATION_SERVICE_CLASS_STATUS)


def action_status(code: int, comment: str = "") -> Status:
    """Give the status of an N-ACTION response (PS3.7 section 10.1.4.1.10)."""
    return _status(code, comment, status.STORAGE_COMMITMENT_SERVICE_CLASS_STATUS)


def commitment_failure(code: int) -> Status:
    """Give the meaning of a Failure Reason, (0008,1197), of storage commitment (PS3.3 section C.14.1.1)."""
    return _status(code, "", status.STORAGE_COMMITMENT_SERVICE_CLASS_STATUS)


def ended_early(final: Status) -> Status:
    """Give the status FE00 of a remote that was not sent C-CANCEL: it ended the operation of its own accord.

    Orthanc cuts its answers off in this way (``LimitFindResults``).
    """
    if final.category is not StatusCategory.CANCEL:
        return final
    meaning = "Ended early by the PACS, which was not asked to cancel. It may limit its answers."
    return final.model_copy(update={"category": StatusCategory.PERMANENT, "meaning": meaning})


def is_cut_off(final: Status) -> bool:
    """Whether an answer was ended early, by the remote without C-CANCEL or at a limit: there is more."""
    return final.code == CANCELLED and final.category is StatusCategory.PERMANENT


def cut_off(why: str) -> Status:
    """Give the status of an answer that was not read to its end because it exceeds a limit."""
    return Status(code=CANCELLED, category=StatusCategory.PERMANENT, meaning=why)


def is_failure(final: Status) -> bool:
    """Whether the remote did not do what was requested."""
    return final.category in {StatusCategory.TRANSIENT, StatusCategory.PERMANENT}


def _status(
    code: int, comment: str, of_service: Mapping[int, tuple[str, str]], steps: Mapping[int, str] = _STEPS
) -> Status:
    category, meaning = of_service.get(code) or _by_class(code)
    meaning = _MEANINGS.get(code) or meaning
    step = steps.get(_family(code)) or _STEPS.get(code) or _default_step(code, category)
    return Status(
        code=code,
        category=_category(code, category, of_service),
        meaning=f"{meaning}. {step}".strip(),
        comment=comment if len(comment) <= _LONGEST_COMMENT else f"{comment[:_LONGEST_COMMENT]}...",
    )


def _category(code: int, category: str, of_service: Mapping[int, object]) -> StatusCategory:
    # C-STORE, C-ECHO and N-ACTION have no pending statuses and cannot be cancelled.
    if category in {status.STATUS_PENDING, status.STATUS_CANCEL} and (
        code not in of_service or status.Status.PENDING not in of_service
    ):
        return StatusCategory.PERMANENT
    if code in _TRANSIENT or _family(code) == 0xA700:
        return StatusCategory.TRANSIENT
    return _CATEGORIES.get(category, StatusCategory.PERMANENT)


def _by_class(code: int) -> tuple[str, str]:
    """Give category and meaning by the status classes of PS3.7 section C.1."""
    category = status.code_to_category(code)
    if _family(code) == 0xA700:
        return category, "Refused: Out of Resources"
    return category, f"{'Warning' if category == status.STATUS_WARNING else 'Failure'} not defined by the Standard"


def _family(code: int) -> int:
    """Give the first code of the ranges A7xx, A9xx and Cxxx."""
    if code & 0xF000 == 0xC000:
        return 0xC000
    return code & 0xFF00 if code & 0xFF00 in {0xA700, 0xA900} else code


def _default_step(code: int, category: str) -> str:
    if _family(code) == 0xA700:
        return _WAIT
    return "" if category in {status.STATUS_SUCCESS, status.STATUS_PENDING} else _CHECK_LOG
