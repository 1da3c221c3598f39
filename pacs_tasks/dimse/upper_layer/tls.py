"""TLS on a connected socket (PS3.15 annex B, BCP 195): version 1.2 or newer, with verified certificates."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pacs_tasks.ae import TLS
from pacs_tasks.dimse.upper_layer.wire import SLICE, Buffer, Wire
from pacs_tasks.errors import AssociationError, InvalidRequestError, TLSError, UnreadableInputError

#: Bytes that are joined before encryption, so that small buffers fill whole records; more gains nothing.
_JOINED = 1 << 17
#: Bytes of content in a record (RFC 8446 section 5.1).
_RECORD = 1 << 14


def caller_context(tls: TLS) -> ssl.SSLContext:
    """Make the context of the side that connects.

    Raises
    ------
    UnreadableInputError
        If a file cannot be read or contains no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = tls.check_hostname
    _restrict(context)
    if tls.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, tls.ca_file)
    _show(context, tls)
    return context


def called_context(tls: TLS) -> ssl.SSLContext:
    """Make the context of the side that accepts. With ``tls.ca_file``, callers need a certificate.

    Raises
    ------
    InvalidRequestError
        If ``tls`` names no certificate.
    UnreadableInputError
        If a file cannot be read or contains no certificate or key.
    """
    if tls.certificate_file is None:
        raise InvalidRequestError("A receiver needs a certificate for TLS. Name its file.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    # A renegotiation costs us a handshake and the caller nothing (RFC 9325 section 3.5).
    context.options |= ssl.OP_NO_RENEGOTIATION
    if tls.ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, tls.ca_file)
    _show(context, tls)
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A certificate in the file is trusted even if its issuer is not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _trust(context: ssl.SSLContext, file: str) -> None:
    _check_readable(file, "the trusted certificates")
    try:
        context.load_verify_locations(file)
    except OSError as error:
        raise UnreadableInputError(
            f"The file contains no certificate to trust{_why(error)}. Name one in PEM format.", file
        ) from None


def _show(context: ssl.SSLContext, tls: TLS) -> None:
    """Load our own certificate and its key."""
    if tls.certificate_file is None:
        return
    _check_readable(tls.certificate_file, "our certificate")
    if tls.key_file is not None:
        _check_readable(tls.key_file, "the private key")
    key_file = tls.key_file or tls.certificate_file
    try:
        context.load_cert_chain(tls.certificate_file, key_file, _no_pass_phrase)
    except _PassPhraseError:
        raise UnreadableInputError(
            "The private key is protected by a pass phrase, which a worker cannot enter. "
            "Write it without one (`openssl pkey`) to a file that only its user may read.",
            key_file,
        ) from None
    except OSError as error:
        files = " and ".join(dict.fromkeys((tls.certificate_file, key_file)))
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise UnreadableInputError(
                "The private key does not belong to the certificate. Name the key of this certificate.", files
            ) from None
        raise UnreadableInputError(
            f"The certificate and its private key cannot be loaded{_why(error)}. Name both in PEM format.", files
        ) from None


class _PassPhraseError(Exception):
    """The private key is protected; OpenSSL would prompt for the pass phrase at a terminal."""


def _no_pass_phrase() -> str:
    raise _PassPhraseError


def _check_readable(file: str, content: str) -> None:
    """Check what OpenSSL does not: it does not name the file that it cannot read, and it blocks on a pipe."""
    where = f"{socket.gethostname()} cannot read {content}"
    try:
        if not Path(file).is_file():
            raise UnreadableInputError(f"{where}: the file does not exist. Check its path.", file)
        with Path(file).open("rb"):
            return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise UnreadableInputError(f"{where} ({why}). Check its permissions.", file) from None


def _why(error: OSError) -> str:
    """Give OpenSSL's reason in brackets, if there is one."""
    reason = str(getattr(error, "reason", None) or "").replace("_", " ").lower()
    return f" ({reason})" if reason else ""


class SecureWire(Wire):
    """A wire over TLS. Call :meth:`handshake` before anything else.

    Parameters
    ----------
    server_name
        The name that the certificate of the called side must have; ``None`` if we are the called side.
    """

    def __init__(
        self, sock: socket.socket, remote: str, limit: float, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        super().__init__(sock, remote, limit)
        self._context = context
        self._server_name = server_name
        self._called = server_name is None
        self._tls: ssl.SSLSocket | None = None
        self._agreed = False

    def handshake(self) -> None:
        """Perform the TLS handshake within ``limit`` seconds.

        Raises
        ------
        PeerUnavailableError
            If the remote hangs up or does not answer in time.
        TLSError
            If it cannot succeed: a certificate is refused, or the remote does not use a supported TLS version.
        """
        if self._called:
            self.hint = "Check that it uses TLS."
        else:
            self.hint = "Check that it uses TLS on this port, and check its log."
        deadline = time.monotonic() + self.limit
        try:
            self._tls = self._context.wrap_socket(
                self._sock,
                server_side=self._called,
                do_handshake_on_connect=False,
                server_hostname=self._server_name,
            )
            self._sock = self._tls
            while not self._agreed:
                # For at most SLICE seconds, the time-out of the socket.
                with contextlib.suppress(TimeoutError):
                    self._tls.do_handshake()
                    self._agreed = True
                now = time.monotonic()
                self._check(now)
                if now >= deadline and not self._agreed:
                    raise self.lost(f"did not complete the TLS handshake within {self.limit:g} s. {self.hint}")
        except OSError as error:
            raise self.connection_error(error, "in the TLS handshake") from None
        if self._called:
            self.hint = "Check its log."
        else:
            self.hint = "Check its log: it may expect another certificate (--tls-cert)."

    def certificate_names(self) -> frozenset[str]:
        """Give what settings may call the certificate of the remote: its fingerprint, and its common name if verified.

        The fingerprint is the SHA-256 in lower-case hexadecimal digits, the common name ``CN=...``. It is empty without
        a certificate.
        """
        whole = self._tls.getpeercert(binary_form=True) if self._tls is not None else None
        if self._tls is None or not whole:
            return frozenset()
        # It has names only if it was verified.
        verified: Mapping[str, Any] = self._tls.getpeercert() or {}
        names = (pair for name in verified.get("subject", ()) for pair in name)
        common = (f"CN={value}" for key, value in names if key == "commonName")
        return frozenset((hashlib.sha256(whole).hexdigest(), *common))

    def check_certificate(self, bound: Collection[str]) -> None:
        """Check that the remote presented one of the certificates that are bound to it, if any are.

        Raises
        ------
        TLSError
            If it presented another one.
        """
        if bound and self.certificate_names().isdisjoint(bound):
            raise TLSError(
                f"{self.remote} presented another certificate than the one bound to it. If its certificate was "
                "renewed, correct `certificates` in [remotes.NAME.tls]."
            )

    def certificate_marks(self) -> tuple[str, ...]:
        """As :meth:`Wire.certificate_marks`: the SHA-256 of the certificate, and that of the names in it.

        A PACS may have one certificate for the service that it offers and one for its calls, and renews both: those of
        one machine have the same subject and alternative names.
        """
        der = self._tls.getpeercert(binary_form=True) if self._tls is not None else None
        # Without verification there are no names, and the certificate proves nothing.
        verified = self._tls.getpeercert() if self._tls is not None else None
        if not der or not verified:
            return ()
        fingerprint = hashlib.sha256(der).hexdigest()
        named = verified.get("subject"), sorted(verified.get("subjectAltName", ()))
        return (
            (fingerprint, f"names {hashlib.sha256(repr(named).encode()).hexdigest()}") if any(named) else (fingerprint,)
        )

    def close(self) -> None:
        """Send a close_notify alert (RFC 8446 section 6.1) if the socket accepts it at once, and close."""
        if not self.closed and self._tls is not None:
            # ValueError: the socket has been shut down.
            with contextlib.suppress(OSError, ValueError):
                self._tls.settimeout(0)
                self._tls.unwrap()
        super().close()

    def abort(self, source: int = 0, reason: int = 0) -> None:
        if self._agreed:
            super().abort(source, reason)
        else:
            self.close()

    def quiet(self) -> bool:
        """As :meth:`Wire.quiet`. Only reading distinguishes data from records of TLS itself."""
        if self._closed or self._end > self._start:
            return False
        if self._end == len(self._buffer):
            self._make_room(1)
        try:
            self._sock.settimeout(0)
            self._end += self._sock.recv_into(memoryview(self._buffer)[self._end :])
            self._sock.settimeout(SLICE)
        except ssl.SSLWantReadError:
            self._sock.settimeout(SLICE)
            return True
        except OSError:
            pass
        return False

    def has_input(self, seconds: float) -> bool:
        """As :meth:`Wire.has_input`."""
        deadline = time.monotonic() + seconds
        while self.quiet():
            left = deadline - time.monotonic()
            if left <= 0 or not super().has_input(left):
                return False
        return True

    def connection_error(self, error: OSError, when: str) -> AssociationError:
        """As :meth:`Wire.connection_error`, with the reason that TLS gives."""
        alert = error
        if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
            alert = self._last_alert() or error
        if not isinstance(alert, ssl.SSLError):
            return super().connection_error(error, when)
        what = _permanent_failure(alert, called=self._called, in_handshake=not self._agreed)
        if what is None:
            return self.lost(f"ended the connection {when} ({_brief(alert)}). {self.hint}")
        self.abort()
        return TLSError(f"{self.remote} {what}")

    def _last_alert(self) -> ssl.SSLError | None:
        """Read the alert that a remote sends before it hangs up."""
        try:
            self._sock.settimeout(0)
            self._sock.recv(1)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as alert:
            return alert
        except OSError:
            pass
        return None

    def _send_some(self, rest: list[Buffer], first: int) -> int:
        """Send for at most two :data:`SLICE`.

        Records are sent one by one: OpenSSL reports several only after the last, so a slow remote would seem to accept
        none. After a time-out OpenSSL requires the same bytes again, and gets them: unsent bytes are still in ``rest``.
        """
        joined = _join(rest, first)
        sent, until = 0, time.monotonic() + SLICE
        try:
            while sent < len(joined) and (not sent or time.monotonic() < until):
                sent += self._sock.send(joined[sent : sent + _RECORD])
        except TimeoutError:
            pass
        except OSError as error:
            raise self.connection_error(error, "while data were sent") from None
        return sent


def _join(rest: list[Buffer], first: int) -> memoryview:
    """Join buffers, up to :data:`_JOINED` bytes and one buffer more."""
    size, end = 0, first
    while end < len(rest) and size < _JOINED:
        size += len(rest[end])
        end += 1
    whole = memoryview(b"".join(rest[first:end]))
    # Short records are only worth sending at the end.
    return whole if end == len(rest) else whole[: size - size % _RECORD]


# X509_V_ERR_*: why OpenSSL rejects a certificate.
_NOT_YET_VALID: Final = frozenset((9,))
_EXPIRED: Final = frozenset((10,))
_UNKNOWN_AUTHORITY: Final = frozenset((2, 18, 19, 20, 21, 24))
_OTHER_NAME: Final = frozenset((62, 64))

_NO_COMMON_VERSION: Final = "does not support TLS 1.2 or newer. Ask its administrator to enable it."
#: OpenSSL's names of alerts (RFC 8446 section 6.2) and of its own findings, whichever side called.
_OF_BOTH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLSV1_ALERT_PROTOCOL_VERSION": _NO_COMMON_VERSION,
        "UNSUPPORTED_PROTOCOL": _NO_COMMON_VERSION,
        "NO_PROTOCOLS_AVAILABLE": _NO_COMMON_VERSION,
        "TLSV1_ALERT_INSUFFICIENT_SECURITY": "requires stronger cipher suites than we support. Check its log.",
        "NO_SHARED_CIPHER": "shares no cipher suite with us. Ask its administrator to allow those of BCP 195.",
    }
)
#: Alerts of a side that was called.
_OF_CALLED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED": "requires a client certificate. Name one with --tls-cert and --tls-key.",
        "SSLV3_ALERT_HANDSHAKE_FAILURE": "refused the TLS handshake: it requires a client certificate, or shares no "
        "cipher suite with us. Name a certificate with --tls-cert and --tls-key, or check its log.",
    }
)
_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLSV1_ALERT_UNKNOWN_CA": "its issuer is unknown",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired",
        "SSLV3_ALERT_CERTIFICATE_REVOKED": "it has been revoked",
        "SSLV3_ALERT_BAD_CERTIFICATE": "it is invalid",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it is not meant for this use",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "no reason given",
        "TLSV1_ALERT_DECRYPT_ERROR": "its signature cannot be verified",
        "TLSV1_ALERT_ACCESS_DENIED": "access denied",
    }
)
#: Findings when the remote uses another protocol instead of a handshake.
_NO_RECORD: Final = frozenset(
    (
        "WRONG_VERSION_NUMBER",
        "UNKNOWN_PROTOCOL",
        "HTTP_REQUEST",
        "HTTPS_PROXY_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
    )
)


def _permanent_failure(error: ssl.SSLError, *, called: bool, in_handshake: bool) -> str | None:
    """Explain an error, to follow the name of the remote; ``None`` if another try may succeed.

    Parameters
    ----------
    called
        Whether the remote called us.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _rejected_certificate(error, called)
    reason = error.reason or ""
    if in_handshake and reason in _NO_RECORD:
        step = "Have it use TLS." if called else "Use its port for TLS, or omit --tls."
        return f"does not use TLS on this port. {step}"
    if reason in _REFUSED:
        ours = "Have its administrator accept it, or name another one with --tls-cert and --tls-key."
        step = "Have its administrator trust it or its issuer." if called else ours
        return f"refused our certificate: {_REFUSED[reason]}. {step}"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "sent no certificate, which this receiver requires. Check PACS_TASKS_RECEIVER_TLS_CA."
    return _OF_BOTH.get(reason) or (None if called else _OF_CALLED.get(reason))


def _rejected_certificate(error: ssl.SSLCertVerificationError, called: bool) -> str:
    code = error.verify_code
    if code in _EXPIRED:
        return "has a certificate that has expired. Check the clock of this machine, then have it renewed."
    if code in _NOT_YET_VALID:
        return "has a certificate that is not valid yet. Check the clocks of both machines."
    if code in _OTHER_NAME:
        return (
            "has a certificate for another host. Use the host name in it, give that name with --tls-server-name, or "
            "accept any name with --tls-no-hostname-check."
        )
    if code in _UNKNOWN_AUTHORITY:
        option = "PACS_TASKS_RECEIVER_TLS_CA" if called else "--tls-ca"
        return (
            "has a certificate of an untrusted issuer. If it is the right one, name the file of its issuer, or of the "
            f"certificate itself, with {option}."
        )
    return f"has an invalid certificate ({error.verify_message}). Ask its administrator to replace it."


def _brief(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "without an alert"
    return (error.reason or type(error).__name__).replace("_", " ").lower()
