"""TLS on a connected socket (PS3.15 annex B, BCP 195): version 1.2 or newer, the peer's certificate always checked."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from pathlib import Path

from pacs_tasks.ae import TLS
from pacs_tasks.dimse.upper_layer import tls_errors
from pacs_tasks.dimse.upper_layer.wire import SLICE, Buffer, Wire
from pacs_tasks.errors import AssociationError, InvalidRequestError, TLSError, UnreadableInputError

#: Bytes that are joined before they are encrypted, so that small buffers fill whole records; more gains nothing.
_JOINED = 1 << 17
#: The content of a record (RFC 8446 section 5.1).
_RECORD = 1 << 14


def caller_context(tls: TLS) -> ssl.SSLContext:
    """What the one who calls brings to the handshake.

    Raises
    ------
    UnreadableInputError
        If a file cannot be read or holds no certificate or key.
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
    """What the one that is called brings to the handshake. With ``tls.ca_file`` callers need a certificate.

    Raises
    ------
    InvalidRequestError
        If ``tls`` names no certificate.
    UnreadableInputError
        If a file cannot be read or holds no certificate or key.
    """
    if tls.certificate_file is None:
        raise InvalidRequestError("whoever is called over TLS shows a certificate; name its file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    # Each costs us a handshake and the caller nothing (RFC 9325 section 3.5).
    context.options |= ssl.OP_NO_RENEGOTIATION
    if tls.ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, tls.ca_file)
    _show(context, tls)
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A certificate that is named is trusted, also where the authority that signed it is not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _trust(context: ssl.SSLContext, file: str) -> None:
    _check_readable(file, "certificates to trust")
    try:
        context.load_verify_locations(file)
    except OSError as error:
        raise UnreadableInputError(
            f"this file holds no certificate to trust{_why(error)}; name one in PEM format", file
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
            "this private key is protected by a pass phrase, and nobody is here to type it; "
            "write it without (`openssl pkey`) to a file that only its user may read",
            key_file,
        ) from None
    except OSError as error:
        files = " and ".join(dict.fromkeys((tls.certificate_file, key_file)))
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise UnreadableInputError(
                "this private key belongs to another certificate; name the one that was made with it", files
            ) from None
        raise UnreadableInputError(
            f"there is no certificate with its private key{_why(error)}; name both in PEM format", files
        ) from None


class _PassPhraseError(Exception):
    """A private key is protected; OpenSSL would ask at a terminal that nobody watches."""


def _no_pass_phrase() -> str:
    raise _PassPhraseError


def _check_readable(file: str, what: str) -> None:
    """OpenSSL does not say which file it cannot read, and waits at a pipe."""
    where = f"{socket.gethostname()} cannot read {what}"
    try:
        if not Path(file).is_file():
            raise UnreadableInputError(f"{where}: there is no such file; check the path, or put it there", file)
        with Path(file).open("rb"):
            return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise UnreadableInputError(f"{where} ({why}); check its permissions", file) from None


def _why(error: OSError) -> str:
    """OpenSSL's own word, where it has one."""
    reason = str(getattr(error, "reason", None) or "").replace("_", " ").lower()
    return f" ({reason})" if reason else ""


class SecureWire(Wire):
    """A wire over TLS. Nothing goes over it before :meth:`shake_hands`.

    Parameters
    ----------
    server_name
        For whom the certificate of the one that is called must be; None where that is us.
    """

    #: We copy what is sent, not the system: a memory map would gain nothing, and one that has lost its pages would end
    #: the process where the system reports an error.
    copies = True

    def __init__(
        self, sock: socket.socket, peer: str, limit: float, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        super().__init__(sock, peer, limit)
        self._context = context
        self._server_name = server_name
        self._called = server_name is None
        self._tls: ssl.SSLSocket | None = None
        self._agreed = False

    def shake_hands(self) -> None:
        """Agree on keys, within ``limit`` seconds.

        Raises
        ------
        PeerUnavailableError
            If the peer hangs up, or does not answer in time.
        TLSError
            If it will never work: a certificate is refused, or the peer speaks no TLS that we speak.
        """
        behind = tls_errors.while_shaking(called=self._called)
        self.hint = f"; {behind}"
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
                self._go_on(self._tls)
                now = time.monotonic()
                self._look(now)
                if now >= deadline and not self._agreed:
                    raise self.lost(f"did not answer the TLS handshake within {self.limit:g} s; {behind}")
        except OSError as error:
            raise self.connection_error(error, "in the TLS handshake") from None
        self.hint = tls_errors.after_shaking(called=self._called)

    def _go_on(self, sock: ssl.SSLSocket) -> None:
        """Shake hands for at most :data:`SLICE` seconds, as long as the socket blocks."""
        with contextlib.suppress(TimeoutError):
            sock.do_handshake()
            self._agreed = True

    def close(self) -> None:
        """Tell the peer that nothing more will come (RFC 8446 section 6.1), if that goes at once, and close."""
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
        """As :meth:`Wire.quiet`. The system cannot tell an answer from what TLS has to say for itself: we read it."""
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
        """As :meth:`Wire.connection_error`, with what TLS says about it."""
        alert = error
        if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
            alert = self._last_alert() or error
        if not isinstance(alert, ssl.SSLError):
            return super().connection_error(error, when)
        what = tls_errors.told(alert, called=self._called, shaking=not self._agreed)
        if what is None:
            return self.lost(f"ended the connection {when} ({tls_errors.brief(alert)}){self.hint}")
        self.abort()
        return TLSError(f"{self.peer} {what}")

    def _last_alert(self) -> ssl.SSLError | None:
        """A peer that refuses us says why and hangs up: its words lie before the end of the connection."""
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

        It goes out record by record: of several OpenSSL says nothing until the last has gone, and a slow peer would
        seem to take none. After a time-out it wants the same bytes again. It gets them: what was not sent is still in
        ``rest``.
        """
        joined = _join(rest, first)
        sent, until = 0, time.monotonic() + SLICE
        try:
            while sent < len(joined) and (not sent or time.monotonic() < until):
                sent += self._sock.send(joined[sent : sent + _RECORD])
        except TimeoutError:
            pass
        except OSError as error:
            raise self.connection_error(error, "while we sent to it") from None
        return sent


def _join(rest: list[Buffer], first: int) -> memoryview:
    """Copy buffers together, up to :data:`_JOINED` bytes and one buffer more."""
    size, end = 0, first
    while end < len(rest) and size < _JOINED:
        size += len(rest[end])
        end += 1
    whole = memoryview(b"".join(rest[first:end]))
    # A short record in the middle would be a waste.
    return whole if end == len(rest) else whole[: size - size % _RECORD]
