"""The user identity of an association request (PS3.7 section D.3.3.7), in pynetdicom's sub-item."""

from __future__ import annotations

from pathlib import Path

from pynetdicom.pdu_items import UserIdentitySubItemRQ

from pacs_tasks.ae import UserIdentity
from pacs_tasks.errors import UnreadableInputError

_USERNAME, _PASSCODE, _KERBEROS, _SAML, _JWT = range(1, 6)
#: The position of "positive response requested" in the sub-item.
_POSITIVE_RESPONSE = 5
#: The length of a field is two bytes, as is that of all user information.
_LONGEST = 60_000


def encode(identity: UserIdentity | None) -> bytes:
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
        item.secondary_field = _read(identity.passcode_file).rstrip(b"\r\n")
    elif identity.passcode is not None:
        item.secondary_field = identity.passcode.get_secret_value().encode()
    elif identity.username is not None:
        item.user_identity_type = _USERNAME
    tokens = {_KERBEROS: identity.kerberos_file, _SAML: identity.saml_file, _JWT: identity.jwt_file}
    for kind, file in tokens.items():
        if file is not None:
            token = _read(file)
            # A Kerberos ticket is binary; the others are text.
            item.user_identity_type, item.primary_field = kind, token if kind == _KERBEROS else token.strip()
    return bytes(item.encode())


def must_be_confirmed(sub_item: bytes) -> bool:
    """Whether a sub-item requests a positive response."""
    return len(sub_item) > _POSITIVE_RESPONSE and bool(sub_item[_POSITIVE_RESPONSE])


def _read(file: str) -> bytes:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UnreadableInputError(
            f"The secret of a user identity cannot be read ({error.strerror}). Check its file on the worker.", file
        ) from None
    if not 0 < len(content) <= _LONGEST:
        raise UnreadableInputError(
            "The secret of a user identity is empty, or too long for an association. Correct its file.", file
        )
    return content
