"""Application entities: who calls and who is called."""

from __future__ import annotations

import os
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

#: What a Python program that names no AE title of its own has always been called here.
DEFAULT_CALLING_AET = "PYNETDICOM"
DEFAULT_CALLED_AET = "PACS"
DEFAULT_PORT = 11112
#: UTF-8, which can hold every name (PS3.3 section C.12.1.1.2).
DEFAULT_CHARSET = "ISO_IR 192"


def _check_ae_title(value: str) -> str:
    """Leading and trailing spaces are not significant (PS3.5 section 6.2, VR AE)."""
    stripped = value.strip(" ")
    if not stripped:
        raise ValueError("an AE title needs at least one character that is no space")
    if len(stripped) > 16:
        raise ValueError("an AE title has at most 16 characters")
    if any(not " " <= character <= "~" or character == "\\" for character in stripped):
        raise ValueError("an AE title holds printable ASCII characters only, and no backslash")
    return stripped


#: Defined terms with and without code extensions (PS3.3 section C.12.1.1.2, tables C.12-2 to C.12-5).
_SINGLE_BYTE = ("13", "100", "101", "109", "110", "126", "127", "138", "144", "148", "166", "203")
_CHARSETS = frozenset(
    {"", "ISO_IR 6", DEFAULT_CHARSET, "GB18030", "GBK"}
    | {f"ISO_IR {number}" for number in _SINGLE_BYTE}
    | {f"ISO 2022 IR {number}" for number in ("6", "58", "87", "149", "159", *_SINGLE_BYTE)}
)


def _check_charset(value: str) -> str:
    """Several terms are separated by a backslash; case and spaces around them are forgiven."""
    terms = [term.strip().upper() for term in value.split("\\")]
    unknown = next((term for term in terms if term not in _CHARSETS), None)
    if unknown is not None:
        raise ValueError(
            f"{unknown!r} is no specific character set of DICOM; write 'ISO_IR 192' for UTF-8, 'GB18030', 'GBK' "
            "or another of its defined terms, such as 'ISO_IR 100' for Latin 1"
        )
    return "\\".join(terms)


def _check_file_name(value: str) -> str:
    """A file of another machine cannot be looked for here; a relative name means one of this machine."""
    if not value.strip() or "\0" in value:
        raise ValueError("a file needs a name")
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute():
        return value
    return os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111 - pathlib keeps `..` and raises at `~nobody`


def _check_server_name(value: str) -> str:
    """A host name as certificates have it, or an address."""
    try:
        value.encode("idna")
    except UnicodeError:
        raise ValueError("this is no host name; write one such as pacs.example.org") from None
    return value


def check_key_has_certificate(certificate_file: str | None, key_file: str | None) -> None:
    """Raise ``ValueError`` for a private key without its certificate."""
    if key_file is not None and certificate_file is None:
        raise ValueError("a private key needs its certificate; name the certificate's file too")


#: VR AE: 1 to 16 characters of the default repertoire, no backslash, no control character (PS3.5 section 6.2).
AETitle = Annotated[str, AfterValidator(_check_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
MaxAssociations = Annotated[int, Field(ge=1, le=1000)]
Host = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
#: A defined term of Specific Character Set, (0008,0005), PS3.3 section C.12.1.1.2.
Charset = Annotated[str, AfterValidator(_check_charset)]


#: The name of a file, which is made absolute where it enters: whoever reads it has another current directory.
FileName = Annotated[str, AfterValidator(_check_file_name)]
ServerName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_check_server_name)]


class TLS(BaseModel):
    """A secure transport connection (PS3.15 section B.12, BCP 195): TLS 1.2 or newer, certificates checked.

    All files are PEM, and lie on the machine that opens the connection or takes it: the worker's, the receiver's.

    Attributes
    ----------
    ca_file
        Certificates of the authorities that may have signed the other side's certificate, or that certificate itself.
        Left out, the caller trusts the authorities that its system trusts; the one that is called asks for no
        certificate.
    certificate_file, key_file
        Our own certificate, with those between it and its authority, and its private key without a pass phrase. A
        file that holds both needs no second name.
    check_hostname
        Whether the other side's certificate must be for the host that is called.
    server_name
        The name in its certificate, where that is not the host that is called.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    ca_file: FileName | None = None
    certificate_file: FileName | None = None
    key_file: FileName | None = None
    check_hostname: bool = True
    server_name: ServerName | None = None

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        check_key_has_certificate(self.certificate_file, self.key_file)
        return self


def _switch(value: Any) -> Any:
    """``tls = true`` asks for TLS with nothing special about it."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class LocalAE(BaseModel):
    """Who calls: us."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    ae_title: AETitle = DEFAULT_CALLING_AET


class RemoteAE(BaseModel):
    """Who is called: the peer, usually a PACS.

    ``charset`` is the specific character set in which keys go to this peer when they are not ASCII, and in which its
    matches are read when they name none themselves: GB18030, GBK and ISO_IR 192 matter for Chinese names.
    ``max_associations`` is how many associations the whole fleet may have open with it at once; None: as the worker's
    settings say. ``tls`` left out, the connection is not encrypted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    ae_title: AETitle = DEFAULT_CALLED_AET
    host: Host = "127.0.0.1"
    port: Port = DEFAULT_PORT
    charset: Charset = DEFAULT_CHARSET
    max_associations: MaxAssociations | None = None
    tls: Annotated[TLS | None, BeforeValidator(_switch)] = None

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}{' over TLS' if self.tls else ''}"
