"""Encode and decode A-ASSOCIATE-RQ, -AC and -RJ (PS3.8 section 9.3.2 to 9.3.4).

pynetdicom's PDU classes take fifty times as long and reject AE titles that remotes really send (NUL-padded, blank, not
ASCII). UIDs pass unchecked: a private or malformed one must fail its own instance, not the association.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pacs_tasks.dimse.files.elements import plain
from pacs_tasks.dimse.files.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_tasks.dimse.upper_layer.wire import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, MAX_RECEIVE_LENGTH

#: The DICOM application context (PS3.7 section A.2.1).
_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
# Result/Reason of a presentation context (PS3.8 table 9-18).
ACCEPTED = 0
USER_REJECTION = 1
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED = 4

# Items and sub-items (PS3.8 section 9.3.2, PS3.7 section D.3.3).
_ITEM_APPLICATION_CONTEXT = 0x10
_ITEM_CONTEXT_RQ = 0x20
_ITEM_CONTEXT_AC = 0x21
_ITEM_ABSTRACT_SYNTAX = 0x30
_ITEM_TRANSFER_SYNTAX = 0x40
_ITEM_USER_INFORMATION = 0x50
_ITEM_MAXIMUM_LENGTH = 0x51
_ITEM_IMPLEMENTATION_CLASS_UID = 0x52
_ITEM_ASYNCHRONOUS_OPERATIONS = 0x53
_ITEM_ROLE_SELECTION = 0x54
_ITEM_IMPLEMENTATION_VERSION_NAME = 0x55

_HEADER = struct.Struct(">BxH")
#: Maximum length for a remote that omits the item, though it is mandatory (PS3.7 section D.3.3.1).
_USUAL_LENGTH = 16_384


@dataclass(frozen=True)
class ProposedContext:
    """A presentation context of a request."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class AssociateRequest:
    """The content of an A-ASSOCIATE-RQ.

    ``roles`` maps a SOP class to (requestor is SCU, requestor is SCP). ``operations`` is the asynchronous operations
    window (invoked, performed), with 0 for no limit; ``None`` means one each (PS3.7 section D.3.3.3).
    """

    called_aet: str
    calling_aet: str
    contexts: tuple[ProposedContext, ...]
    max_length: int = MAX_RECEIVE_LENGTH
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    operations: tuple[int, int] | None = None


@dataclass(frozen=True)
class AssociateAccept:
    """The content of an A-ASSOCIATE-AC. ``results`` maps a context id to (result, transfer syntax)."""

    results: Mapping[int, tuple[int, str]]
    max_length: int = MAX_RECEIVE_LENGTH
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    operations: tuple[int, int] | None = None


def _item(kind: int, content: bytes) -> bytes:
    return _HEADER.pack(kind, len(content)) + content


def _pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(content)) + content


def _aet(title: str) -> bytes:
    return title.encode("ascii", "replace")[:16].ljust(16)


def _head(called_aet: str, calling_aet: str) -> bytes:
    """Encode protocol version 1, the two AE titles and the application context."""
    return (
        struct.pack(">Hxx16s16s32x", 1, _aet(called_aet), _aet(calling_aet))
        + _item(_ITEM_APPLICATION_CONTEXT, _APPLICATION_CONTEXT)
    )  # fmt: skip


def _user_information(proposal: AssociateRequest | AssociateAccept) -> bytes:
    parts = [
        _item(_ITEM_MAXIMUM_LENGTH, struct.pack(">L", proposal.max_length)),
        _item(_ITEM_IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode()),
    ]
    if proposal.operations is not None:
        parts.append(_item(_ITEM_ASYNCHRONOUS_OPERATIONS, struct.pack(">HH", *proposal.operations)))
    for uid, (scu, scp) in proposal.roles.items():
        name = uid.encode("ascii", "replace")
        content = struct.pack(f">H{len(name)}sBB", len(name), name, scu, scp)
        parts.append(_item(_ITEM_ROLE_SELECTION, content))
    parts.append(_item(_ITEM_IMPLEMENTATION_VERSION_NAME, IMPLEMENTATION_VERSION_NAME.encode()))
    return _item(_ITEM_USER_INFORMATION, b"".join(parts))


def encode_request(request: AssociateRequest) -> bytes:
    """Encode an A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""
    parts = [_head(request.called_aet, request.calling_aet)]
    for cx in request.contexts:
        syntaxes = [_item(_ITEM_TRANSFER_SYNTAX, uid.encode("ascii", "replace")) for uid in cx.transfer_syntaxes]
        abstract = _item(_ITEM_ABSTRACT_SYNTAX, cx.abstract_syntax.encode("ascii", "replace"))
        parts.append(
            _item(_ITEM_CONTEXT_RQ, struct.pack(">Bxxx", cx.context_id) + abstract + b"".join(syntaxes))
        )  # fmt: skip
    parts.append(_user_information(request))
    return _pdu(A_ASSOCIATE_RQ, b"".join(parts))


def encode_accept(accept: AssociateAccept, request: AssociateRequest) -> bytes:
    """Encode an A-ASSOCIATE-AC (PS3.8 section 9.3.3) with the AE titles of the request."""
    parts = [_head(request.called_aet, request.calling_aet)]
    for context_id, (result, syntax) in accept.results.items():
        content = struct.pack(">BxBx", context_id, result) + _item(
            _ITEM_TRANSFER_SYNTAX, syntax.encode("ascii", "replace")
        )
        parts.append(_item(_ITEM_CONTEXT_AC, content))
    parts.append(_user_information(accept))
    return _pdu(A_ASSOCIATE_AC, b"".join(parts))


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""
    return _pdu(A_ASSOCIATE_RJ, struct.pack(">xBBB", result, source, reason))


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(content):
        if position + 4 > len(content):
            raise ValueError("an item is truncated")
        kind, length = _HEADER.unpack_from(content, position)
        position += 4
        if position + length > len(content):
            raise ValueError("an item is longer than its container")
        yield kind, content[position : position + length]
        position += length


_UserInformation = tuple[int, dict[str, tuple[bool, bool]], tuple[int, int] | None]


def _read_user_information(content: bytes) -> _UserInformation:
    """Give the maximum length (0 is no limit, PS3.8 section D.1), the roles and the asynchronous operations."""
    max_length = _USUAL_LENGTH
    roles: dict[str, tuple[bool, bool]] = {}
    operations: tuple[int, int] | None = None
    for kind, value in _items(content):
        if kind == _ITEM_MAXIMUM_LENGTH and len(value) >= 4:
            max_length = struct.unpack_from(">L", value)[0]
        elif kind == _ITEM_ASYNCHRONOUS_OPERATIONS and len(value) >= 4:
            operations = struct.unpack_from(">HH", value)
        elif kind == _ITEM_ROLE_SELECTION and len(value) >= 4:
            uid_length = struct.unpack_from(">H", value)[0]
            if uid_length + 4 > len(value):
                raise ValueError("a role selection is truncated")
            roles[plain(value[2 : 2 + uid_length])] = (bool(value[2 + uid_length]), bool(value[3 + uid_length]))
    return max_length, roles, operations


def decode_request(content: memoryview) -> AssociateRequest:
    """Decode an A-ASSOCIATE-RQ.

    Raises
    ------
    ValueError
        If it is malformed.
    """
    if len(content) < 68:
        raise ValueError("an A-ASSOCIATE-RQ is truncated")
    contexts: list[ProposedContext] = []
    user: _UserInformation = (_USUAL_LENGTH, {}, None)
    for kind, value in _items(bytes(content[68:])):
        if kind == _ITEM_CONTEXT_RQ and len(value) >= 4:
            inner = list(_items(value[4:]))
            abstract = next((plain(uid) for item, uid in inner if item == _ITEM_ABSTRACT_SYNTAX), "")
            syntaxes = tuple(plain(uid) for item, uid in inner if item == _ITEM_TRANSFER_SYNTAX)
            contexts.append(ProposedContext(value[0], abstract, syntaxes))
        elif kind == _ITEM_USER_INFORMATION:
            user = _read_user_information(value)
    max_length, roles, operations = user
    return AssociateRequest(
        called_aet=plain(bytes(content[4:20])),
        calling_aet=plain(bytes(content[20:36])),
        contexts=tuple(contexts),
        max_length=max_length,
        roles=roles,
        operations=operations,
    )


def decode_accept(content: memoryview) -> AssociateAccept:
    """Decode an A-ASSOCIATE-AC.

    Raises
    ------
    ValueError
        If it is malformed.
    """
    if len(content) < 68:
        raise ValueError("an A-ASSOCIATE-AC is truncated")
    results: dict[int, tuple[int, str]] = {}
    user: _UserInformation = (_USUAL_LENGTH, {}, None)
    for kind, value in _items(bytes(content[68:])):
        if kind == _ITEM_CONTEXT_AC and len(value) >= 4:
            # If the context is rejected, the transfer syntax is meaningless and may be missing.
            syntax = (
                "" if value[2] else next((plain(v) for k, v in _items(value[4:]) if k == _ITEM_TRANSFER_SYNTAX), "")
            )
            results[value[0]] = (value[2], syntax)
        elif kind == _ITEM_USER_INFORMATION:
            user = _read_user_information(value)
    return AssociateAccept(results, *user)
