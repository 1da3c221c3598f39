"""Negotiate an association (PS3.8 section 7.1, PS3.7 section D.3): A-ASSOCIATE-RQ, -AC and -RJ, written and read.

pynetdicom's PDU classes take fifty times as long and reject AE titles that remotes really send (NUL-padded, blank, not
ASCII). UIDs pass unchecked: a private or malformed one must fail its own instance, not the association.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pynetdicom.pdu
from pynetdicom.pdu_items import UserIdentitySubItemRQ

from pacs_tasks.ae import LocalAE, RemoteAE, UserIdentity
from pacs_tasks.dimse.files.elements import plain
from pacs_tasks.dimse.files.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_tasks.dimse.upper_layer.command import aborted
from pacs_tasks.dimse.upper_layer.wire import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    MAX_RECEIVE_LENGTH,
    Wire,
)
from pacs_tasks.errors import (
    AssociationError,
    AssociationRejectedError,
    InvalidRequestError,
    PeerBusyError,
    UnreadableInputError,
)

#: The DICOM application context (PS3.7 section A.2.1).
_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
# Result/Reason of a presentation context (PS3.8 table 9-18).
ACCEPTED = 0
USER_REJECTION = 1
NO_REASON = 2
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
_ITEM_USER_IDENTITY_AC = 0x59

_HEADER = struct.Struct(">BxH")
#: Bytes of a request that is read: 128 contexts of forty transfer syntaxes of 64 characters are shorter.
LONGEST_REQUEST = 1 << 19
#: A context id is one byte. More contexts have ids that are not unique.
_MOST_CONTEXTS = 255
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
    #: A whole user identity sub-item, which no log may show; see :func:`encode_identity`.
    identity: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class AssociateAccept:
    """The content of an A-ASSOCIATE-AC. ``results`` maps a context id to (result, transfer syntax)."""

    results: Mapping[int, tuple[int, str]]
    max_length: int = MAX_RECEIVE_LENGTH
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    operations: tuple[int, int] | None = None
    #: Whether the user identity is confirmed.
    confirmed: bool = False


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
    if isinstance(proposal, AssociateRequest):
        parts.append(proposal.identity)
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


def _read_user_information(
    content: bytes,
) -> tuple[int, dict[str, tuple[bool, bool]], tuple[int, int] | None, bool]:
    """Give the maximum length (0 is no limit, PS3.8 section D.1), the roles, the asynchronous operations, and
    whether the user identity is confirmed.
    """
    max_length = _USUAL_LENGTH
    roles: dict[str, tuple[bool, bool]] = {}
    operations: tuple[int, int] | None = None
    confirmed = False
    for kind, value in _items(content):
        confirmed |= kind == _ITEM_USER_IDENTITY_AC
        if kind == _ITEM_MAXIMUM_LENGTH and len(value) >= 4:
            max_length = struct.unpack_from(">L", value)[0]
        elif kind == _ITEM_ASYNCHRONOUS_OPERATIONS and len(value) >= 4:
            operations = struct.unpack_from(">HH", value)
        elif kind == _ITEM_ROLE_SELECTION and len(value) >= 4:
            uid_length = struct.unpack_from(">H", value)[0]
            if uid_length + 4 > len(value):
                raise ValueError("a role selection is truncated")
            roles[plain(value[2 : 2 + uid_length])] = (bool(value[2 + uid_length]), bool(value[3 + uid_length]))
    return max_length, roles, operations, confirmed


def decode_request(content: memoryview) -> AssociateRequest:
    """Decode an A-ASSOCIATE-RQ.

    Raises
    ------
    ValueError
        If it is malformed.
    """
    if len(content) < 68:
        raise ValueError("an A-ASSOCIATE-RQ is truncated")
    if len(content) > LONGEST_REQUEST:
        raise ValueError("an A-ASSOCIATE-RQ is longer than any valid one")
    contexts: list[ProposedContext] = []
    user = _read_user_information(b"")
    for kind, value in _items(bytes(content[68:])):
        if kind == _ITEM_CONTEXT_RQ and len(value) >= 4:
            inner = list(_items(value[4:]))
            abstract = next((plain(uid) for item, uid in inner if item == _ITEM_ABSTRACT_SYNTAX), "")
            syntaxes = tuple(plain(uid) for item, uid in inner if item == _ITEM_TRANSFER_SYNTAX)
            contexts.append(ProposedContext(value[0], abstract, syntaxes))
            if len(contexts) > _MOST_CONTEXTS:
                raise ValueError("it proposes more presentation contexts than there are ids")
        elif kind == _ITEM_USER_INFORMATION:
            user = _read_user_information(value)
    max_length, roles, operations, _ = user
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
    user = _read_user_information(b"")
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


#: Context ids are the odd numbers up to 255 (PS3.8 section 9.3.2.2).
MAX_CONTEXTS = 128
# Result and source of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4).
_PERMANENT = 1
#: Of the service user and of the ACSE provider.
_NO_REASON_GIVEN = 1
_SERVICE_USER, _ACSE_PROVIDER, _PRESENTATION_PROVIDER = 1, 2, 3


@dataclass(frozen=True)
class Context:
    """A presentation context to propose. ``scp_role`` requests the SCP role for us (PS3.7 section D.3.3.4)."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    scp_role: bool = False


def propose(
    local: LocalAE, remote: RemoteAE, contexts: Sequence[Context], window: int, identity: bytes = b""
) -> AssociateRequest:
    """Make an association request.

    Parameters
    ----------
    window
        How many requests to propose for the asynchronous operations window (PS3.7 section D.3.3.3).
    identity
        The user identity sub-item, if any.

    Raises
    ------
    InvalidRequestError
        If there are no contexts or too many.
    """
    if not 1 <= len(contexts) <= MAX_CONTEXTS:
        raise InvalidRequestError(
            f"An association carries 1 to {MAX_CONTEXTS} presentation contexts, not {len(contexts)}. "
            "Use several associations."
        )
    proposed = tuple(
        ProposedContext(2 * index + 1, cx.abstract_syntax, cx.transfer_syntaxes) for index, cx in enumerate(contexts)
    )
    # The SCP role alone: the requestor of a C-GET sends no instances itself.
    roles = {cx.abstract_syntax: (False, True) for cx in contexts if cx.scp_role}
    operations = (window, 1) if window > 1 else None
    return AssociateRequest(
        remote.ae_title, local.ae_title, proposed, roles=roles, operations=operations, identity=identity
    )


def negotiate(wire: Wire, request: AssociateRequest, local: LocalAE, remote: RemoteAE) -> AssociateAccept:
    """Send the request and read the answer.

    Raises
    ------
    PeerUnavailableError
        If there is no answer, or it is an abort or malformed.
    AssociationError
        If the remote rejects the association.
    """
    wire.send([encode_request(request)])
    kind, content = wire.receive_pdu("an answer to the association request")
    if kind == A_ASSOCIATE_AC:
        with suppress(ValueError):
            accept = decode_accept(content)
            if _must_be_confirmed(request.identity) and not accept.confirmed:
                wire.abort()
                raise AssociationRejectedError(
                    f"{remote} accepted the association without confirming the user identity. Ask its administrator, "
                    "or set positive_response to false in [remotes.NAME.identity]."
                )
            return accept
        raise wire.protocol_error("sent a malformed A-ASSOCIATE-AC")
    if kind == A_ASSOCIATE_RJ:
        wire.close()
        raise _rejection(bytes(content), local, remote, identified=bool(request.identity))
    if kind == A_ABORT:
        raise aborted(
            wire, content, "instead of accepting it", "Check both AE titles: some remotes abort if one is wrong."
        )
    raise wire.protocol_error(f"answered the association request with a PDU of type {kind}")


def _rejection(content: bytes, local: LocalAE, remote: RemoteAE, *, identified: bool = False) -> AssociationError:
    """Give the error for the content of an A-ASSOCIATE-RJ.

    It is permanent if the remote says so, except for reasons of the presentation provider: some remotes call "local
    limit exceeded" permanent.
    """
    rj = pynetdicom.pdu.A_ASSOCIATE_RJ()
    rj.result, rj.source, rj.reason_diagnostic = content[1:4] if len(content) >= 4 else (_PERMANENT, _SERVICE_USER, 1)
    try:
        reason = rj.reason_str[0].lower() + rj.reason_str[1:]
    except ValueError:
        reason = "no reason given"
    step = _NEXT_STEPS.get((rj.source, rj.reason_diagnostic), "Check --ae-title and --pacs-ae-title.").format(
        calling_aet=local.ae_title, called_aet=remote.ae_title
    )
    if identified and rj.source != _PRESENTATION_PROVIDER and rj.reason_diagnostic == _NO_REASON_GIVEN:
        # Not even if it is transient: the same passcode again may lock the account.
        return AssociationRejectedError(
            f"{remote} rejected the association: {reason}. It may not accept the user identity: check its "
            "[remotes.NAME.identity] in the settings of the workers."
        )
    if rj.result == _PERMANENT and rj.source != _PRESENTATION_PROVIDER:
        return AssociationRejectedError(f"{remote} rejected the association: {reason}. {step}")
    return PeerBusyError(f"{remote} rejected the association for now: {reason}. {step}")


_NEXT_STEPS: Mapping[tuple[int, int], str] = {
    (_SERVICE_USER, 2): "Check that it is a PACS.",
    (_SERVICE_USER, 3): (
        "Check --ae-title, or ask its administrator to add {calling_aet!r} with the address of this machine."
    ),
    (_SERVICE_USER, 7): "Check --pacs-ae-title, which is {called_aet!r}.",
    (_ACSE_PROVIDER, 2): "Ask its administrator which protocol it supports.",
    (_PRESENTATION_PROVIDER, 1): "Try again later.",
    (_PRESENTATION_PROVIDER, 2): "Try again later, or use fewer workers.",
}


# The user identity (PS3.7 section D.3.3.7)

_USERNAME, _PASSCODE, _KERBEROS, _SAML, _JWT = range(1, 6)
#: The position of "positive response requested" in the sub-item.
_POSITIVE_RESPONSE = 5
#: The length of a field is two bytes, as is that of all user information.
_LONGEST_SECRET = 60_000


def encode_identity(identity: UserIdentity | None) -> bytes:
    """Encode a user identity sub-item; nothing without an identity.

    Raises
    ------
    UnreadableInputError
        If the file of a secret cannot be read.
    """
    if identity is None:
        return b""
    item = UserIdentitySubItemRQ()
    item.positive_response_requested = int(identity.positive_response)
    item.user_identity_type, item.primary_field = _PASSCODE, (identity.username or "").encode()
    if identity.passcode_file is not None:
        item.secondary_field = _read_secret(identity.passcode_file).rstrip(b"\r\n")
    elif identity.passcode is not None:
        item.secondary_field = identity.passcode.get_secret_value().encode()
    elif identity.username is not None:
        item.user_identity_type = _USERNAME
    tokens = {_KERBEROS: identity.kerberos_file, _SAML: identity.saml_file, _JWT: identity.jwt_file}
    for kind, file in tokens.items():
        if file is not None:
            token = _read_secret(file)
            # A Kerberos ticket is binary; the others are text.
            item.user_identity_type, item.primary_field = kind, token if kind == _KERBEROS else token.strip()
    return bytes(item.encode())


def _must_be_confirmed(sub_item: bytes) -> bool:
    """Whether a sub-item requests a positive response."""
    return len(sub_item) > _POSITIVE_RESPONSE and bool(sub_item[_POSITIVE_RESPONSE])


def _read_secret(file: str) -> bytes:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UnreadableInputError(
            f"The secret of a user identity cannot be read ({error.strerror}). Check its file on the worker.", file
        ) from None
    if not 0 < len(content) <= _LONGEST_SECRET:
        raise UnreadableInputError(
            "The secret of a user identity is empty, or too long for an association. Correct its file.", file
        )
    return content
