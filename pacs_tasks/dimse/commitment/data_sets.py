"""Storage commitment: what is asked and what is reported (PS3.4 annex J). The data sets of both."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence

from pacs_tasks.dimse.files.elements import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Data,
    Element,
    Encoding,
    MalformedError,
    items,
    walk,
)
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.outcome.verification import CommitmentReport

#: The Storage Commitment Push Model, and its one instance that everybody knows (PS3.4 section J.3.5).
PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
#: In which we read a report.
REPORT_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
#: In which we ask: every peer has the default transfer syntax (PS3.5 section 10.1).
PUSH_MODEL_CONTEXT = Context(PUSH_MODEL, (IMPLICIT_VR_LITTLE_ENDIAN,))

_REFERENCED_SOP_CLASS_UID = 0x0008_1150
_REFERENCED_SOP_INSTANCE_UID = 0x0008_1155
_TRANSACTION_UID = 0x0008_1195
_FAILURE_REASON = 0x0008_1197
_FAILED_SOP_SEQUENCE = 0x0008_1198
_REFERENCED_SOP_SEQUENCE = 0x0008_1199
_ITEM = 0xFFFE_E000
#: "Processing failure", for a failure without a reason (PS3.3 section C.14.1.1).
_PROCESSING_FAILURE = 0x0110
_LONGEST_UID = 64


def new_transaction_uid() -> str:
    """A UID that nobody can guess, so that a stranger cannot report in a peer's place (PS3.5 section B.2)."""
    return f"2.25.{secrets.randbits(128)}"


def encode_request(transaction_uid: str, references: Sequence[tuple[str, str]]) -> bytes:
    """Write the Action Information of a request in Implicit VR Little Endian (PS3.4 section J.3.2.1.1).

    Parameters
    ----------
    references
        SOP class and SOP instance of each.
    """
    listed = b"".join(
        _element(
            _ITEM,
            _element(_REFERENCED_SOP_CLASS_UID, _uid(sop_class))
            + _element(_REFERENCED_SOP_INSTANCE_UID, _uid(sop_instance)),
        )
        for sop_class, sop_instance in references
    )
    return _element(_TRANSACTION_UID, _uid(transaction_uid)) + _element(_REFERENCED_SOP_SEQUENCE, listed)


def _uid(text: str) -> bytes:
    value = text.encode("ascii", "replace")
    return value + b"\0" if len(value) % 2 else value


def _element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def decode_report(content: bytes, transfer_syntax_uid: str) -> CommitmentReport:
    """Read the Event Information of a report (PS3.4 section J.3.3.1.1).

    An instance that stands in both lists has failed. One without a readable UID is left out: it answers for nothing.

    Raises
    ------
    ValueError
        If it is malformed or names no transaction.
    """
    encoding = Encoding.of(transfer_syntax_uid)
    transaction_uid = ""
    committed: set[str] = set()
    failed: dict[str, int] = {}
    for element in walk(content, encoding):
        if element.tag == _TRANSACTION_UID:
            transaction_uid = _text(content, element)
        elif element.tag == _REFERENCED_SOP_SEQUENCE:
            committed.update(uid for uid, _ in _references(content, encoding, element))
        elif element.tag == _FAILED_SOP_SEQUENCE:
            failed.update(_references(content, encoding, element))
    if not transaction_uid:
        raise MalformedError("it names no transaction")
    return CommitmentReport(transaction_uid, frozenset(committed - failed.keys()), failed)


def _references(content: Data, encoding: Encoding, sequence: Element) -> list[tuple[str, int]]:
    """The SOP instance of each item, and why it failed."""
    found = []
    for item in items(content, encoding, sequence):
        uid, reason = "", _PROCESSING_FAILURE
        for element in walk(item, encoding):
            if element.tag == _REFERENCED_SOP_INSTANCE_UID:
                uid = _text(item, element)
            elif element.tag == _FAILURE_REASON and element.length == 2:
                reason = int.from_bytes(
                    item[element.position : element.position + 2], "big" if encoding.big else "little"
                )
        if uid:
            found.append((uid, reason))
    return found


def _text(data: Data, element: Element) -> str:
    """The UID of an element; nothing where that is none."""
    if element.length is None or element.length > _LONGEST_UID:
        return ""
    return bytes(data[element.position : element.position + element.length]).decode("ascii", "replace").strip("\0 ")
