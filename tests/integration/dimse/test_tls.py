"""Calls over TLS: which certificates are trusted, and one clear error in time if anything fails."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import time
import warnings
from itertools import count
from pathlib import Path

import pytest

from pacs_tasks.ae import TLS, LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import VERIFICATION_CONTEXT, echo
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.errors import (
    AssociationError,
    JobCancelledError,
    PacsTasksError,
    PeerUnavailableError,
    TLSError,
    UnreadableInputError,
)
from pacs_tasks.outcome import Category
from pacs_tasks.testing import TestPACS
from tests.support import peers, scripted
from tests.support.certificates import VERSIONS, Authority, Identity, over_tls

LOCAL = LocalAE(ae_title="CALLER")
HASTY = Timeouts.of(1)
PATIENT = Timeouts.of(20)
IMPLICIT = "1.2.840.10008.1.2"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make the authority that signs all certificates."""
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Make another, unrelated authority."""
    return Authority(tmp_path, "stranger")


@pytest.fixture
def own(authority: Authority) -> Identity:
    """Make the certificate of the PACS."""
    return authority.identity()


def _answer(sock: socket.socket) -> None:
    """Accept the association and its release."""
    scripted.accept_all(sock)
    scripted.let_go(sock)
    scripted.wait_for_end(sock)


def _open(remote: RemoteAE, tls: TLS | None, timeouts: Timeouts = PATIENT) -> None:
    """Open an association and release it."""
    asked = remote.model_copy(update={"tls": tls})
    Association.open(LOCAL, asked, [VERIFICATION_CONTEXT], timeouts).release()


def _refused(context: ssl.SSLContext, tls: TLS) -> str:
    """Give the reason for which TLS with a remote fails."""
    with scripted.peer(over_tls(context, _answer)) as remote, pytest.raises(TLSError) as caught:
        _open(remote, tls)
    assert caught.value.message.startswith(f"{remote} over TLS ")
    assert not caught.value.subject
    return caught.value.message


@VERSIONS
def test_both_versions_are_spoken(own: Identity, version: ssl.TLSVersion) -> None:
    """A certificate is trusted by its issuer or by itself, and the remote gets a close_notify."""
    ended: list[bytes] = []

    def script(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version() == version.name.replace("v1_", "v1.")
        _answer(sock)
        # Without a close_notify this would raise.
        sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # documented as a parameter only
        ended.append(sock.recv(1))

    for trusting in (own.trusted, own.pinned):
        with scripted.peer(over_tls(own.called(version), script)) as remote:
            _open(remote, trusting)
    assert ended == [b"", b""]


@VERSIONS
def test_a_certificate_that_is_not_believed(
    authority: Authority, stranger: Authority, own: Identity, version: ssl.TLSVersion
) -> None:
    """Unknown issuer, expired, not valid yet, other host: each error names the next step."""
    other = authority.identity("other", "pacs.example.org")
    for identity, trusting, told in (
        (own, stranger.identity().trusted, "untrusted issuer.*--tls-ca"),
        (own, TLS(), "untrusted issuer.*--tls-ca"),
        (authority.expired(), own.trusted, "has expired.*renewed"),
        (authority.not_yet(), own.trusted, "not valid yet.*clocks"),
        (other, own.trusted, "another host.*--tls-server-name.*--tls-no-hostname-check"),
    ):
        assert re.search(told, _refused(identity.called(version), trusting))


def test_a_certificate_for_another_name_can_be_taken(authority: Authority) -> None:
    """It is accepted by naming that name or allowing any; the signature is still verified."""
    other = authority.identity("other", "pacs.example.org")
    for change in ({"server_name": "pacs.example.org"}, {"check_hostname": False}):
        with scripted.peer(over_tls(other.called(), _answer)) as remote:
            _open(remote, other.trusted.model_copy(update=change))
    unchecked = TLS(check_hostname=False)
    assert "untrusted issuer" in _refused(other.called(), unchecked)


@VERSIONS
def test_a_peer_that_wants_a_certificate(
    authority: Authority, stranger: Authority, own: Identity, version: ssl.TLSVersion
) -> None:
    """It gets our certificate; if there is none, or it is refused, the error gives the reason of the remote."""
    demanding = own.called(version, callers=authority.file)
    with scripted.peer(over_tls(demanding, _answer)) as remote:
        _open(remote, authority.identity("caller").tls)
    unknown = stranger.identity("caller").tls.model_copy(update={"ca_file": str(authority.file)})
    assert re.search("requires a client certificate.*--tls-cert.*--tls-key", _refused(demanding, own.trusted))
    assert re.search("refused our certificate: its issuer is unknown", _refused(demanding, unknown))
    assert re.search("refused our certificate: it has expired", _refused(demanding, authority.expired().tls))


def test_an_old_version_and_other_ciphers(own: Identity) -> None:
    """Versions below TLS 1.2 and other ciphers are refused."""
    old, odd = own.called(), own.called(ssl.TLSVersion.TLSv1_2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    odd.set_ciphers("AES128-SHA")
    assert "does not support TLS 1.2 or newer" in _refused(old, own.trusted)
    assert "shares no cipher suite" in _refused(odd, own.trusted)


@pytest.mark.parametrize("first", [b"\7\0\0\0\0\4\0\0\2\1", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_peer_without_tls(own: Identity, first: bytes) -> None:
    """A remote that answers with DICOM or another protocol instead of TLS is reported."""

    def script(sock: socket.socket) -> None:
        sock.recv(5)
        sock.sendall(first)
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote, pytest.raises(TLSError, match=r"does not use TLS on this port. Use its port"):
        _open(remote, own.trusted)


def test_a_pacs_without_tls(own: Identity, pacs: TestPACS) -> None:
    """Remotes that mistake our ClientHello for a PDU hang up, abort or wait, and each ends in time."""
    with pytest.raises((TLSError, PeerUnavailableError), match=r"does not use TLS|uses TLS on this port"):
        _open(pacs.remote, own.trusted, HASTY)


@pytest.mark.dcmtk
def test_storescp_without_tls(own: Identity, storescp: peers.Directory) -> None:
    """DCMTK hangs up at our ClientHello."""
    with pytest.raises(PeerUnavailableError, match="Check that it uses TLS on this port"):
        _open(storescp.remote, own.trusted)


def test_a_peer_that_hangs_up_in_the_handshake(own: Identity) -> None:
    """A remote that hangs up may be overloaded, so another try is worthwhile."""
    with (
        scripted.peer(lambda sock: sock.close()) as remote,
        pytest.raises(PeerUnavailableError, match=r"in the TLS handshake .*Check that it uses TLS on this port"),
    ):
        _open(remote, own.trusted)


@pytest.mark.parametrize("begun", [b"", b"\x16\3\3"])
def test_a_peer_that_never_answers_the_handshake(own: Identity, begun: bytes) -> None:
    """The limit for associations ends the wait, and a cancelled job ends it sooner."""

    def script(sock: socket.socket) -> None:
        sock.sendall(begun)
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        began = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="did not complete the TLS handshake within 1 s"):
            _open(remote, own.trusted, HASTY)
        assert 1 <= time.monotonic() - began < 5
        asked = count()
        with pytest.raises(JobCancelledError):
            echo(LOCAL, remote.model_copy(update={"tls": own.trusted}), PATIENT, lambda: next(asked) > 2)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        (b"\x15\3\3\0\2\2\x46", TLSError, "uses TLS, but this connection does not. Enable it with --tls"),
        (b"", PeerUnavailableError, r"it expects TLS on this port \(--tls\)"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", AssociationError, "the port is that of a web server. Set --port"),
    ],
)
def test_calling_a_port_of_something_else(reply: bytes, error: type[PacsTasksError], told: str) -> None:
    """Some remotes answer with an alert, others hang up."""

    def script(sock: socket.socket) -> None:
        scripted.receive_pdu(sock)
        sock.sendall(reply)

    with scripted.peer(script) as remote, pytest.raises(error, match=told):
        _open(remote, None)


def test_calling_a_real_port_for_tls_without_it(own: Identity) -> None:
    """OpenSSL hangs up without an alert."""
    with (
        scripted.peer(over_tls(own.called(), _answer)) as remote,
        pytest.raises(PeerUnavailableError, match="expects TLS"),
    ):
        _open(remote, None)


def test_files_that_cannot_be_used(authority: Authority, own: Identity, tmp_path: Path) -> None:
    """No connection is opened, and only the subject of the error names the file."""
    locked = tmp_path / "locked.key"
    protecting = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", str(own.key), "-out", str(locked)]
    subprocess.run(protecting, check=True, capture_output=True, timeout=30)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    nowhere, certificate, other = tmp_path / "nowhere.pem", own.certificate, authority.identity("other")

    def shown(certificate: Path, key: Path | None) -> TLS:
        return TLS(certificate_file=str(certificate), key_file=None if key is None else str(key))

    for tls, file, told in (
        (TLS(ca_file=str(nowhere)), nowhere, "cannot read the trusted certificates: the file does not exist"),
        (TLS(ca_file=str(tmp_path)), tmp_path, "file does not exist"),
        (TLS(ca_file=str(pipe)), pipe, "file does not exist"),
        (TLS(ca_file=str(own.key)), own.key, "contains no certificate to trust"),
        (shown(nowhere, None), nowhere, "cannot read our certificate"),
        (shown(certificate, nowhere), nowhere, "cannot read the private key"),
        (shown(certificate, None), certificate, "certificate and its private key cannot be loaded"),
        (shown(own.key, own.key), own.key, "certificate and its private key cannot be loaded"),
        (shown(certificate, other.key), other.key, "does not belong to the certificate"),
        (shown(certificate, locked), locked, "protected by a pass phrase"),
    ):
        with pytest.raises(UnreadableInputError, match=told) as caught:
            # Nothing listens there, so connecting would give another error.
            echo(LOCAL, RemoteAE(host="127.0.0.1", port=1, tls=tls), HASTY)
        assert str(file) in caught.value.subject
        assert str(tmp_path) not in caught.value.message


def test_testpacs_demands_certificates(authority: Authority, own: Identity) -> None:
    """With authorities, TestPACS accepts only callers with their certificates; a silent one delays nobody."""
    with TestPACS(tls=own.tls) as pacs, socket.create_connection((pacs.host, pacs.port)):
        with pytest.raises(TLSError, match="requires a client certificate"):
            echo(LOCAL, pacs.remote, PATIENT)
        caller = authority.identity("caller").tls
        outcome = echo(LOCAL, pacs.remote.model_copy(update={"tls": caller}), PATIENT)
        assert outcome.category is Category.SUCCESS
