"""Application entities: the local AE, which calls, and the remote AE, which is called."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
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
    return os.path.abspath(os.path.expanduser(value))


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


def _check_host(value: str) -> str:
    """Refuse a URL and a host with its port, which would be looked up as a name."""
    if "/" in value:
        raise ValueError("this is not a host; write a host name or an address alone, such as pacs.example.org")
    # An IPv6 address has more.
    if value.count(":") == 1:
        raise ValueError("a host has no port; write them apart, such as --ip 1.2.3.4 --port 104")
    return value


def _check_address(value: str) -> str:
    """Check an IP address or a network; anything else is a host name."""
    if "/" not in value:
        return value
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError("this is not a network; write one such as 192.168.1.0/24") from None


def _sha256_of(text: str) -> str:
    """Read a SHA-256 as openssl prints it, behind its name and with colons; empty if it is none."""
    digits = text.rpartition("=")[2].replace(":", "").lower()
    return digits if re.fullmatch("[0-9a-f]{64}", digits) else ""


def _check_certificate(value: str) -> str:
    """Read the output of ``openssl x509 -fingerprint -sha256`` too."""
    value = value.strip()
    if value.startswith("CN=") and len(value) > 3:
        return value
    digits = _sha256_of(value.rpartition("=")[2].lower().removeprefix("sha256:"))
    if not digits:
        raise ValueError("a certificate is named by its SHA-256 fingerprint (64 hexadecimal digits) or by CN=NAME")
    return digits


#: VR AE: 1 to 16 characters of the default repertoire, no backslash, no control character (PS3.5 section 6.2).
AETitle = Annotated[str, AfterValidator(_check_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
MaxAssociations = Annotated[int, Field(ge=1, le=1000)]
MaxMatches = Annotated[int, Field(ge=1)]
MaxAnswerBytes = Annotated[int, Field(ge=1 << 16)]
MaxMatchElements = Annotated[int, Field(ge=100)]
#: A name of DNS has at most 253 characters (RFC 1035 section 2.3.4).
_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]
#: An IP address or a host name.
Host = Annotated[_Name, AfterValidator(_check_host)]
#: An IP address, a network such as 192.168.1.0/24, or a host name.
Address = Annotated[_Name, AfterValidator(_check_address)]
#: The name of a certificate: the SHA-256 of the whole in hexadecimal digits, or its common name as ``CN=NAME``.
Certificate = Annotated[str, AfterValidator(_check_certificate)]
#: A defined term of Specific Character Set, (0008,0005), PS3.3 section C.12.1.1.2.
Charset = Annotated[str, AfterValidator(_check_charset)]


def _check_network(value: str) -> str:
    """Check an IP address or a network, such as 192.168.1.0/24."""
    try:
        network = ipaddress.ip_network(value.strip(), strict=False)
    except ValueError:
        raise ValueError(
            f"{value!r} is neither an IP address nor a network; write 192.168.1.20 or 192.168.1.0/24"
        ) from None
    if network.num_addresses > 1:
        return str(network)
    return plain_address(str(network.network_address))


def _check_fingerprint(value: str) -> str:
    """Check the SHA-256 of a certificate, as ``openssl x509 -fingerprint -sha256`` writes it, or without colons."""
    digits = _sha256_of(value.strip())
    if not digits:
        raise ValueError(
            f"{value!r} is not the SHA-256 of a certificate, which `openssl x509 -noout -fingerprint -sha256` prints"
        )
    return digits


Network = Annotated[str, AfterValidator(_check_network)]
Fingerprint = Annotated[str, AfterValidator(_check_fingerprint)]


def plain_address(address: str) -> str:
    """Return an IP address in its one form: IPv4 within IPv6 as IPv4 (RFC 4291 section 2.5.5.2), without a zone.

    Anything else is returned as it is.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(getattr(found, "ipv4_mapped", None) or found)


def is_loopback(host: str) -> bool:
    """Report whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(plain_address(host)).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_foreign_path(path: str) -> bool:
    """Report whether a path is one of Windows, this machine is another one, and nothing here has that name."""
    foreign = bool(PureWindowsPath(path).drive) or ("\\" in path and "/" not in path)
    return foreign and os.name != "nt" and not PurePosixPath(path).is_absolute() and not os.path.lexists(path)


#: The name of a file, made absolute: the process that reads it has another current directory.
FileName = Annotated[str, AfterValidator(_check_file_name)]
ServerName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_check_server_name)]


class Value(BaseModel):
    """Base of what requests, settings and outcomes hold: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class TLS(Value):
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
    certificates
        The remote must present one of these certificates, also where it calls the receiver under its AE title: each is
        a SHA-256 fingerprint or ``CN=`` with a common name. Empty accepts every trusted certificate.
    """

    ca_file: FileName | None = None
    certificate_file: FileName | None = None
    key_file: FileName | None = None
    check_hostname: bool = True
    server_name: ServerName | None = None
    certificates: tuple[Certificate, ...] = ()

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        check_key_has_certificate(self.certificate_file, self.key_file)
        return self


def _switch(value: Any) -> Any:
    """Read ``tls = true`` as TLS with its defaults."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


@dataclass(frozen=True)
class AnswerLimits:
    """How much a remote may answer to one query: a remote that is broken or hostile does not end by itself."""

    #: Matches in all.
    matches: int = 200_000
    #: Bytes of all matches, as they are encoded.
    answer_bytes: int = 1 << 27
    #: Elements of one match, with those within sequences.
    match_elements: int = 10_000


class LocalAE(Value):
    """The AE that calls."""

    ae_title: AETitle = DEFAULT_CALLING_AET


class AllowedCaller(Value):
    """A caller that the receiver accepts; its AE title, or ``*`` for any, is the name of its table."""

    #: Where it calls from: IP addresses, networks or host names. Empty accepts every address.
    addresses: tuple[Address, ...] = ()
    #: As in :class:`TLS`.
    certificates: tuple[Certificate, ...] = ()


class UserIdentity(Value):
    """On whose behalf associations are requested, for a remote that asks (PS3.7 section D.3.3.7): one of five types.

    It is in the settings of workers and never in a request. Secrets are in files, which are read for each association,
    or in the environment: ``PACS_TASKS_REMOTES='{"archive": {"identity": {"passcode": "..."}}}'``.
    """

    #: Alone, or with a passcode.
    username: Annotated[str, StringConstraints(min_length=1)] | None = None
    #: The passcode, or its file. Line ends at the end of the file do not count.
    passcode: SecretStr | None = None
    passcode_file: FileName | None = None
    #: The file of a Kerberos service ticket, a SAML assertion, or a JSON Web Token.
    kerberos_file: FileName | None = None
    saml_file: FileName | None = None
    jwt_file: FileName | None = None
    #: Whether the remote must confirm the identity; without it, a remote may ignore the identity.
    positive_response: bool = False

    @model_validator(mode="after")
    def _has_one_type(self) -> Self:
        types = (self.username, self.kerberos_file, self.saml_file, self.jwt_file)
        if sum(each is not None for each in types) != 1:
            raise ValueError("name one of username, kerberos_file, saml_file and jwt_file")
        if (self.passcode or self.passcode_file) and self.username is None:
            raise ValueError("a passcode needs its username")
        if self.passcode and self.passcode_file:
            raise ValueError("name the passcode or its file, not both")
        return self


class RemoteAE(Value):
    """The AE that is called, usually a PACS.

    Attributes
    ----------
    charset
        The specific character set of keys that are not ASCII, and of matches that name none. Chinese names need
        GB18030, GBK or ISO_IR 192.
    max_associations
        How many associations the whole fleet may have open with it at once. None: as in the settings of the worker.
    max_matches, max_answer_bytes, max_match_elements
        How much it may answer to one query. None: as in the settings of the worker.
    tls
        None: the connection is not encrypted.
    receive_from
        IP addresses and networks from which it delivers after a C-MOVE, beside its own address.
    receive_from_ae_titles
        AE titles with which it delivers, beside its own. They are also accepted as Move Originator.
    receive_from_certificates
        SHA-256 of the certificates that it may show when it delivers over TLS, beside the one of ``host``.
    """

    ae_title: AETitle = DEFAULT_CALLED_AET
    host: Host = "127.0.0.1"
    port: Port = DEFAULT_PORT
    charset: Charset = DEFAULT_CHARSET
    max_associations: MaxAssociations | None = None
    max_matches: MaxMatches | None = None
    max_answer_bytes: MaxAnswerBytes | None = None
    max_match_elements: MaxMatchElements | None = None
    tls: Annotated[TLS | None, BeforeValidator(_switch)] = None
    # None is left out of messages, so that a worker of an older version still reads them.
    receive_from: tuple[Network, ...] | None = None
    receive_from_ae_titles: tuple[AETitle, ...] | None = None
    receive_from_certificates: tuple[Fingerprint, ...] | None = None

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}{' over TLS' if self.tls else ''}"
