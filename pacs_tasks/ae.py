"""Application entities: the local AE, which calls, and the remote AE, which is called."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

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

#: The AE title that Python programs without one have always had here.
DEFAULT_CALLING_AET = "PYNETDICOM"
DEFAULT_CALLED_AET = "PACS"
DEFAULT_PORT = 11112
#: UTF-8, which can hold every name (PS3.3 section C.12.1.1.2).
DEFAULT_CHARSET = "ISO_IR 192"


class WrongValueError(ValueError):
    """A value in a request is wrong. The message does not repeat it: ``value`` is for the caller only."""

    def __init__(self, message: str, value: str) -> None:
        super().__init__(message)
        self.value = value


def _check_ae_title(value: str) -> str:
    """Leading and trailing spaces are not significant (PS3.5 section 6.2, VR AE)."""
    stripped = value.strip(" ")
    if not stripped:
        raise ValueError("an AE title needs at least one character other than a space")
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
    """Backslashes separate several terms. Case and surrounding spaces do not matter."""
    terms = [term.strip().upper() for term in value.split("\\")]
    unknown = next((term for term in terms if term not in _CHARSETS), None)
    if unknown is not None:
        raise WrongValueError(
            "this is not a specific character set of DICOM; write 'ISO_IR 192' for UTF-8, 'GB18030', 'GBK' or another "
            "defined term, such as 'ISO_IR 100' for Latin 1",
            unknown,
        )
    return "\\".join(terms)


def _check_file_name(value: str) -> str:
    """Make a relative name absolute. An absolute one may be that of a file on another machine."""
    if not value.strip() or "\0" in value:
        raise ValueError("a file needs a name")
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute():
        return value
    return os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111 - pathlib keeps `..` and raises at `~nobody`


def _check_server_name(value: str) -> str:
    """Check a host name as it stands in certificates, or an address."""
    try:
        value.encode("idna")
    except UnicodeError:
        raise ValueError("this is not a host name; write one such as pacs.example.org") from None
    return value


def check_key_has_certificate(certificate_file: str | None, key_file: str | None) -> None:
    """Raise ``ValueError`` for a private key without its certificate."""
    if key_file is not None and certificate_file is None:
        raise ValueError("a private key needs its certificate; name the file of the certificate too")


#: VR AE: 1 to 16 characters of the default repertoire, no backslash, no control character (PS3.5 section 6.2).
AETitle = Annotated[str, AfterValidator(_check_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
MaxAssociations = Annotated[int, Field(ge=1, le=1000)]
#: A name of DNS has at most 253 characters (RFC 1035 section 2.3.4).
Host = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]
#: A defined term of Specific Character Set, (0008,0005), PS3.3 section C.12.1.1.2.
Charset = Annotated[str, AfterValidator(_check_charset)]


def is_foreign_path(path: str) -> bool:
    """Report whether a path is one of Windows, this machine is another one, and nothing here has that name."""
    foreign = PureWindowsPath(path).is_absolute() and not PurePosixPath(path).is_absolute()
    return foreign and os.name != "nt" and not os.path.lexists(path)


#: The name of a file, made absolute: the process that reads it has another current directory.
FileName = Annotated[str, AfterValidator(_check_file_name)]
ServerName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_check_server_name)]


class TLS(BaseModel):
    """A secure transport connection (PS3.15 section B.12, BCP 195): TLS 1.2 or newer, certificates checked.

    All files are PEM files on the machine of the worker or receiver that opens or accepts the connection.

    Attributes
    ----------
    ca_file
        Certificates of the authorities to trust, or the certificate of the other side itself. Without it, a caller
        trusts the authorities of its system, and a receiver requests no certificate.
    certificate_file, key_file
        The local certificate with its intermediate certificates, and its private key without a pass phrase. One file
        may hold both.
    check_hostname
        Whether the certificate of the other side must be for the host that is called.
    server_name
        The name in that certificate, if it is not the host that is called.
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
    """Read ``tls = true`` as TLS with its defaults."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class LocalAE(BaseModel):
    """The AE that calls."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    ae_title: AETitle = DEFAULT_CALLING_AET


class RemoteAE(BaseModel):
    """The AE that is called, usually a PACS.

    Attributes
    ----------
    charset
        The specific character set of keys that are not ASCII, and of matches that name none. Chinese names need
        GB18030, GBK or ISO_IR 192.
    max_associations
        How many associations the whole fleet may have open with it at once. None: as in the settings of the worker.
    tls
        None: the connection is not encrypted.
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
