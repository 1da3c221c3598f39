"""What it means when TLS does not come about, in one sentence each: what happened, and what to do next."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# X509_V_ERR_*: why OpenSSL does not believe a certificate.
_NOT_YET_VALID: Final = frozenset((9,))
_EXPIRED: Final = frozenset((10,))
_UNKNOWN_AUTHORITY: Final = frozenset((2, 18, 19, 20, 21, 24))
_OTHER_NAME: Final = frozenset((62, 64))

_NO_TLS: Final = "speaks no TLS at this port"
_NO_COMMON_VERSION: Final = "speaks no TLS that we speak, which is 1.2 or newer; its administrator must allow that"
#: What OpenSSL calls the alerts (RFC 8446 section 6.2) and its own findings.
_OF_BOTH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLSV1_ALERT_PROTOCOL_VERSION": _NO_COMMON_VERSION,
        "UNSUPPORTED_PROTOCOL": _NO_COMMON_VERSION,
        "NO_PROTOCOLS_AVAILABLE": _NO_COMMON_VERSION,
        "TLSV1_ALERT_INSUFFICIENT_SECURITY": "asks for stronger cipher suites than we have; its log tells which",
        "NO_SHARED_CIPHER": "has no cipher suite in common with us; it must allow those that BCP 195 recommends",
    }
)
#: What the one that was called says about us.
_OF_CALLED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a certificate of ours; give one with --tls-cert and --tls-key",
        "SSLV3_ALERT_HANDSHAKE_FAILURE": "refuses the TLS handshake: it wants a certificate of ours (--tls-cert, "
        "--tls-key), or has no cipher suite in common with us; its log tells which",
    }
)
_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLSV1_ALERT_UNKNOWN_CA": "it does not know who signed it",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired",
        "SSLV3_ALERT_CERTIFICATE_REVOKED": "it has been revoked",
        "SSLV3_ALERT_BAD_CERTIFICATE": "it is bad",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it is not made for this",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not say why",
        "TLSV1_ALERT_DECRYPT_ERROR": "it cannot check it",
        "TLSV1_ALERT_ACCESS_DENIED": "it may not enter",
    }
)
#: In the place of a handshake: another protocol speaks.
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


def told(error: ssl.SSLError, *, called: bool, shaking: bool) -> str | None:
    """What stands behind an error for good, to follow the peer's name; nothing if another try may go better.

    Parameters
    ----------
    called
        Whether the peer called us.
    shaking
        Whether the handshake is still under way.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(error, called)
    reason = error.reason or ""
    if shaking and reason in _NO_RECORD:
        return f"{_NO_TLS}; {_LEAVE_OUT[called]}"
    if reason in _REFUSED:
        return f"refuses our certificate: {_REFUSED[reason]}; {_SHOW_ANOTHER[called]}"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "shows no certificate, and this receiver demands one (PACS_TASKS_RECEIVER_TLS_CA)"
    return _OF_BOTH.get(reason) or (None if called else _OF_CALLED.get(reason))


_LEAVE_OUT: Final = MappingProxyType(
    {False: "take its port for TLS, or leave --tls out", True: "it must use TLS to reach this receiver"}
)
_SHOW_ANOTHER: Final = MappingProxyType(
    {
        False: "have its administrator accept it, or show another one with --tls-cert and --tls-key",
        True: "its administrator must trust it, or the authority that signed it",
    }
)


def _untrusted(error: ssl.SSLCertVerificationError, called: bool) -> str:
    code = error.verify_code
    if code in _EXPIRED:
        return "shows a certificate that has expired; its administrator must renew it, if this machine's clock is right"
    if code in _NOT_YET_VALID:
        return "shows a certificate that is not valid yet; check the clocks of both machines"
    if code in _OTHER_NAME:
        return (
            "shows a certificate for another host; call it by the name in its certificate, name that with "
            "--tls-server-name, or take any name with --tls-no-hostname-check"
        )
    if code in _UNKNOWN_AUTHORITY:
        who = "PACS_TASKS_RECEIVER_TLS_CA" if called else "--tls-ca"
        return (
            "shows a certificate that nobody whom we trust has signed; if it is the right one, name the file of its "
            f"authority, or of the certificate itself, with {who}"
        )
    return f"shows a certificate that we refuse ({error.verify_message}); its administrator must replace it"


def brief(error: ssl.SSLError) -> str:
    """What OpenSSL says, in few words."""
    if isinstance(error, ssl.SSLEOFError):
        return "without a word"
    return (error.reason or type(error).__name__).replace("_", " ").lower()


def while_shaking(*, called: bool) -> str:
    """What may stand behind a peer that says nothing, or hangs up, in the handshake."""
    return "it may speak no TLS" if called else "check that it speaks TLS at this port, and its log"


def after_shaking(*, called: bool) -> str:
    """What may stand behind a peer that hangs up right after the handshake."""
    return "" if called else "; its log tells more: it may want another certificate of ours (--tls-cert)"
