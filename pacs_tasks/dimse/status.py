"""What a DIMSE status means, service by service, as a sentence with a next step.

General statuses: PS3.7 annex C. C-STORE: PS3.4 section B.2.3. C-FIND: C.4.1.1.4. C-MOVE: C.4.2.1.5. C-GET: C.4.3.1.4.
A code that nobody has defined is a permanent failure: unknown is never success.
"""

from __future__ import annotations

from collections.abc import Mapping

from pacs_tasks.outcome import Status, StatusCategory

_SUCCESS, _PENDING, _CANCEL = StatusCategory.SUCCESS, StatusCategory.PENDING, StatusCategory.CANCEL
_WARNING, _TRANSIENT, _PERMANENT = StatusCategory.WARNING, StatusCategory.TRANSIENT, StatusCategory.PERMANENT

_Meaning = tuple[StatusCategory, str]

#: PS3.7 annex C: any service may answer these.
_GENERAL: Mapping[int, _Meaning] = {
    0x0000: (_SUCCESS, "success"),
    0x0001: (_WARNING, "done, and the peer adds that a requested attribute was not given"),
    0x0105: (_PERMANENT, "no such attribute; the PACS does not know what was asked"),
    0x0106: (_PERMANENT, "invalid attribute value; a value that was sent breaks the PACS's rules"),
    0x0107: (_WARNING, "done, and the peer adds that some attributes were not recognised"),
    0x0110: (_PERMANENT, "processing failure in the PACS; its log tells more"),
    0x0111: (_PERMANENT, "duplicate SOP instance; the PACS already holds another instance of this UID"),
    0x0112: (_PERMANENT, "no such SOP instance; the PACS does not hold it"),
    0x0115: (_PERMANENT, "invalid argument value; its log tells which"),
    0x0116: (_WARNING, "done, and the peer adds that a value was out of range"),
    0x0117: (_PERMANENT, "invalid SOP Instance UID; the instance breaks the rules of PS3.5 section 9.1"),
    0x0118: (_PERMANENT, "no such SOP class; ask the PACS's administrator to allow it"),
    0x0119: (_PERMANENT, "class and instance conflict; the PACS holds this UID in another SOP class"),
    0x0120: (_PERMANENT, "missing attribute; the PACS wants more than was sent"),
    0x0121: (_PERMANENT, "missing attribute value; the PACS wants more than was sent"),
    0x0122: (_PERMANENT, "SOP class not supported; ask the PACS's administrator to allow it"),
    0x0123: (_PERMANENT, "no such action type; the PACS does not do this"),
    0x0124: (_PERMANENT, "not authorised; ask the PACS's administrator to allow it for our AE title"),
    0x0210: (_TRANSIENT, "duplicate invocation; the PACS still has a message of this id at work"),
    0x0211: (_PERMANENT, "unrecognised operation; the PACS does not offer this service"),
    0x0212: (_PERMANENT, "mistyped argument; its log tells which"),
    0x0213: (_TRANSIENT, "resource limitation in the PACS; try again later"),
}

_OUT_OF_RESOURCES = "out of resources, such as disk space or licences; wait, and tell its administrator if it lasts"

_STORE: Mapping[int, _Meaning] = {
    0xB000: (_WARNING, "stored, with some data elements changed by the PACS"),
    0xB006: (_WARNING, "stored, with some data elements left out by the PACS"),
    0xB007: (_WARNING, "stored, and the PACS says that the data set does not match its SOP class"),
}

_FIND: Mapping[int, _Meaning] = {
    0xFF00: (_PENDING, "a match"),
    0xFF01: (_PENDING, "a match; the PACS does not support some of the optional keys"),
    0xFE00: (_CANCEL, "stopped as asked; there may be more matches"),
}

_RETRIEVE: Mapping[int, _Meaning] = {
    0xFF00: (_PENDING, "sub-operations are going on"),
    0xFE00: (_CANCEL, "stopped as asked; some instances may not have come"),
    0xB000: (
        _WARNING,
        "complete, and some sub-operations failed or had warnings; compare what arrived, then ask again",
    ),
    0xA701: (_TRANSIENT, "out of resources: it could not count the matches; wait, then try again"),
    0xA702: (_TRANSIENT, "out of resources: it could not perform the sub-operations; wait, then try again"),
}

_MOVE: Mapping[int, _Meaning] = {
    **_RETRIEVE,
    0xA801: (
        _PERMANENT,
        "move destination unknown: the PACS does not know the AE title that it should send to; ask its administrator "
        "to add this AE title with the host and port of the receiver, or retrieve by C-GET (--method get)",
    ),
}

_NOT_MATCHED = "the identifier does not match the SOP class; the PACS does not support this level or these keys"
_STORE_MISMATCH = "the data set does not match its SOP class; the PACS refuses this instance"


def store_status(code: int, comment: str = "") -> Status:
    """The status of a C-STORE response (PS3.4 table B.2-1)."""
    meanings = {
        0xA700: (_TRANSIENT, _OUT_OF_RESOURCES),
        0xA900: (_PERMANENT, _STORE_MISMATCH),
        0xC000: (_PERMANENT, "cannot understand: the PACS cannot read the data set; its log tells more"),
    }
    return _status(code, comment, _STORE, meanings)


def find_status(code: int, comment: str = "") -> Status:
    """The status of a C-FIND response (PS3.4 table C.4-1)."""
    meanings = {
        0xA700: (_TRANSIENT, _OUT_OF_RESOURCES),
        0xA900: (_PERMANENT, _NOT_MATCHED),
        0xC000: (_PERMANENT, "unable to process: the PACS cannot answer this query; ask with fewer or other keys"),
    }
    return _status(code, comment, _FIND, meanings)


def move_status(code: int, comment: str = "") -> Status:
    """The status of a C-MOVE response (PS3.4 table C.4-2)."""
    return _status(code, comment, _MOVE, _retrieve_meanings())


def get_status(code: int, comment: str = "") -> Status:
    """The status of a C-GET response (PS3.4 table C.4-3)."""
    return _status(code, comment, _RETRIEVE, _retrieve_meanings())


def is_failure(final: Status) -> bool:
    """Whether the peer did not do what was asked."""
    return final.category in {StatusCategory.TRANSIENT, StatusCategory.PERMANENT}


def echo_status(code: int, comment: str = "") -> Status:
    """The status of a C-ECHO response (PS3.7 section 9.1.5.1.4)."""
    return _status(code, comment, {}, {})


def action_status(code: int, comment: str = "") -> Status:
    """The status of an N-ACTION response (PS3.7 section 10.1.4.1.10)."""
    return _status(code, comment, {}, {})


def commitment_failure(code: int) -> Status:
    """Why a peer does not answer for an instance: its Failure Reason, (0008,1197) (PS3.3 section C.14.1.1)."""
    exact = {0x0131: (_PERMANENT, "duplicate transaction UID; the PACS takes the request for an earlier one")}
    return _status(code, "", exact, {})


def _retrieve_meanings() -> dict[int, _Meaning]:
    return {
        0xA700: (_TRANSIENT, _OUT_OF_RESOURCES),
        0xA900: (_PERMANENT, _NOT_MATCHED),
        0xC000: (_PERMANENT, "unable to process: the PACS could not do this; its log tells more"),
    }


def _status(code: int, comment: str, exact: Mapping[int, _Meaning], ranges: Mapping[int, _Meaning]) -> Status:
    """Look a code up: the service's own, the general ones, the ranges A7xx, A9xx and Cxxx."""
    found = exact.get(code) or _GENERAL.get(code) or ranges.get(_range(code)) or _class_of(code)
    category, meaning = found
    return Status(code=code, category=category, meaning=meaning, comment=comment)


def _range(code: int) -> int:
    return 0xC000 if code & 0xF000 == 0xC000 else code & 0xFF00


def _class_of(code: int) -> _Meaning:
    """The status classes of PS3.7 section C.1."""
    if code & 0xFF00 == 0xA700:
        return _TRANSIENT, _OUT_OF_RESOURCES
    if code & 0xF000 == 0xB000:
        return _WARNING, "done, with a warning that the Standard does not define; its log tells more"
    return _PERMANENT, "a failure that the Standard does not define; the PACS's log tells more"
