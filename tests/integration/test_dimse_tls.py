"""Calling over TLS: what is sent arrives, and whatever goes wrong is one sentence in time."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from itertools import count
from pathlib import Path

import pytest

from pacs_tasks.ae import TLS, LocalAE, RemoteAE
from pacs_tasks.dimse import contexts, part10
from pacs_tasks.dimse.association import Association, Timeouts
from pacs_tasks.dimse.c_echo import VERIFICATION, VERIFICATION_CONTEXT, echo
from pacs_tasks.dimse.c_store import store
from pacs_tasks.dimse.negotiation import Context
from pacs_tasks.dimse.tls import SecureWire, caller_context
from pacs_tasks.errors import JobCancelledError, PacsTasksError, PeerUnavailableError, TLSError, UnreadableInputError
from pacs_tasks.outcome import Category, InstanceCategory, InstanceOutcome
from pacs_tasks.testing import TestPACS
from tests.support import dicom_files, peers, scripted
from tests.support.certificates import Authority, Identity, over_tls
from tests.support.processes import ROOT, environment
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")
HASTY = Timeouts.of(1)
PATIENT = Timeouts.of(20)
IMPLICIT = "1.2.840.10008.1.2"
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs all certificates here."""
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Another authority, whom the first does not know."""
    return Authority(tmp_path, "stranger")


@pytest.fixture
def own(authority: Authority) -> Identity:
    """The certificate of the PACS."""
    return authority.identity()


def _answer(sock: socket.socket) -> None:
    """Accept, and agree to the release."""
    scripted.accept_all(sock)
    _agree_to_release(sock)


def _agree_to_release(sock: socket.socket) -> None:
    scripted.read_pdu(sock)
    sock.sendall(b"\6\0\0\0\0\4\0\0\0\0")
    scripted.wait_for_end(sock)


def _open(remote: RemoteAE, tls: TLS | None, timeouts: Timeouts = PATIENT) -> None:
    """Associate and release."""
    asked = remote.model_copy(update={"tls": tls})
    Association.open(LOCAL, asked, [VERIFICATION_CONTEXT], timeouts).release()


def _refused(context: ssl.SSLContext, tls: TLS) -> str:
    """Why no secure connection with a peer comes about."""
    with scripted.peer(over_tls(context, _answer)) as remote, pytest.raises(TLSError) as caught:
        _open(remote, tls)
    assert caught.value.message.startswith(f"{remote} over TLS ")
    assert not caught.value.subject
    return caught.value.message


def _store(remote: RemoteAE, path: Path, timeouts: Timeouts = PATIENT) -> InstanceOutcome:
    instance = part10.read_instance(str(path))
    [(proposed, _)] = contexts.contexts_for([instance])
    with Association.open(LOCAL, remote, proposed, timeouts) as assoc:
        return store(assoc, instance)


@VERSIONS
def test_both_versions_are_spoken(own: Identity, version: ssl.TLSVersion) -> None:
    """A certificate is believed for its authority, or when it is named itself; the peer is told that we leave."""
    ended: list[bytes] = []

    def script(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version() == version.name.replace("v1_", "v1.")
        _answer(sock)
        # Without our word that nothing more comes, this would raise.
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
    """Of an unknown authority, expired, not valid yet, for another host: each says what to do."""
    other = authority.identity("other", "pacs.example.org")
    for identity, trusting, told in (
        (own, stranger.identity().trusted, "nobody whom we trust has signed.*--tls-ca"),
        (own, TLS(), "nobody whom we trust has signed.*--tls-ca"),
        (authority.expired(), own.trusted, "has expired.*must renew"),
        (authority.not_yet(), own.trusted, "not valid yet.*clocks"),
        (other, own.trusted, "another host.*--tls-server-name.*--tls-no-hostname-check"),
    ):
        assert re.search(told, _refused(identity.called(version), trusting))


def test_a_certificate_for_another_name_can_be_taken(authority: Authority) -> None:
    """By naming that name, or by asking for any: the signature is checked all the same."""
    other = authority.identity("other", "pacs.example.org")
    for change in ({"server_name": "pacs.example.org"}, {"check_hostname": False}):
        with scripted.peer(over_tls(other.called(), _answer)) as remote:
            _open(remote, other.trusted.model_copy(update=change))
    unchecked = TLS(check_hostname=False)
    assert "nobody whom we trust" in _refused(other.called(), unchecked)


@VERSIONS
def test_a_peer_that_wants_a_certificate(
    authority: Authority, stranger: Authority, own: Identity, version: ssl.TLSVersion
) -> None:
    """It gets ours; without one, or with one that it does not take, we say what it told us."""
    demanding = own.called(version, callers=authority.file)
    with scripted.peer(over_tls(demanding, _answer)) as remote:
        _open(remote, authority.identity("caller").tls)
    unknown = stranger.identity("caller").tls.model_copy(update={"ca_file": str(authority.file)})
    assert re.search("wants a certificate of ours.*--tls-cert.*--tls-key", _refused(demanding, own.trusted))
    assert re.search("refuses our certificate: it does not know who signed it", _refused(demanding, unknown))
    assert re.search("refuses our certificate: it has expired", _refused(demanding, authority.expired().tls))


def test_an_old_version_and_other_ciphers(own: Identity) -> None:
    """Below TLS 1.2 nothing is spoken."""
    old, odd = own.called(), own.called(ssl.TLSVersion.TLSv1_2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    odd.set_ciphers("AES128-SHA")
    assert "no TLS that we speak, which is 1.2 or newer" in _refused(old, own.trusted)
    assert "no cipher suite in common" in _refused(odd, own.trusted)


@pytest.mark.parametrize("first", [b"\7\0\0\0\0\4\0\0\2\1", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_peer_without_tls(own: Identity, first: bytes) -> None:
    """DICOM or another protocol where TLS was due is told as that."""

    def script(sock: socket.socket) -> None:
        sock.recv(5)
        sock.sendall(first)
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote, pytest.raises(TLSError, match="speaks no TLS at this port; take its port"):
        _open(remote, own.trusted)


def test_a_pacs_without_tls(own: Identity, pacs: TestPACS) -> None:
    """A real one takes our hello for a PDU: it hangs up, aborts, or waits for the rest, and we end in time."""
    with pytest.raises((TLSError, PeerUnavailableError), match=r"speaks no TLS|speaks TLS at this port"):
        _open(pacs.remote, own.trusted, HASTY)


@pytest.mark.dcmtk
def test_storescp_without_tls(own: Identity, storescp: peers.Directory) -> None:
    """DCMTK hangs up on our hello."""
    with pytest.raises(PeerUnavailableError, match="check that it speaks TLS at this port"):
        _open(storescp.remote, own.trusted)


def test_a_peer_that_hangs_up_in_the_handshake(own: Identity) -> None:
    """It may be overloaded, so that another try is worth it."""
    with (
        scripted.peer(lambda sock: sock.close()) as remote,
        pytest.raises(PeerUnavailableError, match=r"in the TLS handshake .*check that it speaks TLS at this port"),
    ):
        _open(remote, own.trusted)


@pytest.mark.parametrize("begun", [b"", b"\x16\3\3"])
def test_a_peer_that_never_answers_the_handshake(own: Identity, begun: bytes) -> None:
    """The limit of the association ends it, and a cancelled job ends it sooner."""

    def script(sock: socket.socket) -> None:
        sock.sendall(begun)
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        began = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="did not answer the TLS handshake within 1 s"):
            _open(remote, own.trusted, HASTY)
        assert 1 <= time.monotonic() - began < 5
        asked = count()
        with pytest.raises(JobCancelledError):
            echo(LOCAL, remote.model_copy(update={"tls": own.trusted}), PATIENT, lambda: next(asked) > 2)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        (b"\x15\3\3\0\2\2\x46", TLSError, "speaks TLS, and we did not; ask for it with --tls"),
        (b"", PeerUnavailableError, r"it may expect TLS at this port \(--tls\)"),
    ],
)
def test_calling_a_port_for_tls_without_it(reply: bytes, error: type[PacsTasksError], told: str) -> None:
    """Some peers answer with an alert, others hang up."""

    def script(sock: socket.socket) -> None:
        scripted.read_pdu(sock)
        sock.sendall(reply)

    with scripted.peer(script) as remote, pytest.raises(error, match=told):
        _open(remote, None)


def test_calling_a_real_port_for_tls_without_it(own: Identity) -> None:
    """OpenSSL hangs up without a word."""
    with (
        scripted.peer(over_tls(own.called(), _answer)) as remote,
        pytest.raises(PeerUnavailableError, match="may expect TLS"),
    ):
        _open(remote, None)


def test_files_that_cannot_be_used(authority: Authority, own: Identity, tmp_path: Path) -> None:
    """Nothing is opened; the sentence names the file to whom asked, and to nobody else."""
    locked = tmp_path / "locked.key"
    protecting = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", str(own.key), "-out", str(locked)]
    subprocess.run(protecting, check=True, capture_output=True, timeout=30)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    nowhere, certificate, other = tmp_path / "nowhere.pem", own.certificate, authority.identity("other")

    def shown(certificate: Path, key: Path | None) -> TLS:
        return TLS(certificate_file=str(certificate), key_file=None if key is None else str(key))

    for tls, file, told in (
        (TLS(ca_file=str(nowhere)), nowhere, "cannot read certificates to trust: there is no such file"),
        (TLS(ca_file=str(tmp_path)), tmp_path, "no such file"),
        (TLS(ca_file=str(pipe)), pipe, "no such file"),
        (TLS(ca_file=str(own.key)), own.key, "holds no certificate to trust"),
        (shown(nowhere, None), nowhere, "cannot read our certificate"),
        (shown(certificate, nowhere), nowhere, "cannot read the private key"),
        (shown(certificate, None), certificate, "no certificate with its private key"),
        (shown(own.key, own.key), own.key, "no certificate with its private key"),
        (shown(certificate, other.key), other.key, "belongs to another certificate"),
        (shown(certificate, locked), locked, "protected by a pass phrase"),
    ):
        with pytest.raises(UnreadableInputError, match=told) as caught:
            # Nobody listens there: connecting would be another error.
            echo(LOCAL, RemoteAE(host="127.0.0.1", port=1, tls=tls), HASTY)
        assert str(file) in caught.value.subject
        assert str(tmp_path) not in caught.value.message


@VERSIONS
def test_every_shipped_instance_arrives_to_the_byte(own: Identity, version: ssl.TLSVersion) -> None:
    """Every class in every syntax, small and large, is at the PACS as it is in its file."""
    paths = [path for path in dicom_files.sendable() if path.name != "rtplan_truncated.dcm"]
    with TestPACS(tls=own.shown) as pacs:
        outcomes = []
        for proposed, batch in contexts.contexts_for(part10.read_instance(str(path)) for path in paths):
            with Association.open(LOCAL, pacs.remote, proposed, PATIENT) as assoc:
                outcomes += [store(assoc, instance) for instance in batch]
        assert {outcome.category for outcome in outcomes} == {InstanceCategory.SUCCESS}
        assert len(pacs.instances) == len(paths)
        for outcome in outcomes:
            sent = dicom_files.data_set(Path(outcome.subject))
            assert pacs.instances[outcome.sop_instance_uid].data_set == sent + b"\0" * (len(sent) % 2)


@pytest.mark.parametrize("max_length", [16_384, 4_096, 0])
def test_a_peer_that_reads_in_fits_gets_every_byte(own: Identity, tmp_path: Path, max_length: int) -> None:
    """Where the socket takes nothing for a while, and then a part of a record, the rest follows as it should."""
    ds = dicom_files.instance(rows=2000)
    ds.PixelData = os.urandom(8_000_000)
    path = dicom_files.write(ds, tmp_path / "big.dcm")
    came = bytearray()
    resting = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
        scripted.accept_all(sock, max_length)
        context_id, number = 0, 0
        while True:
            _, content = scripted.read_pdu(sock)
            context_id = content[4]
            if content[5] & 1:
                continue
            came.extend(content[6:])
            number += 1
            if number % 200 == 1 and len(came) < 2_000_000:
                # Longer than a write waits.
                resting.wait(0.6)
            if content[5] & 2:
                break
        sock.sendall(scripted.store_response(context_id))
        _agree_to_release(sock)

    with scripted.peer(over_tls(own.called(), script)) as remote:
        outcome = _store(remote.model_copy(update={"tls": own.trusted}), path)
    assert outcome.category is InstanceCategory.SUCCESS
    assert came == dicom_files.data_set(path)


def test_a_slow_peer_is_not_taken_for_a_silent_one(own: Identity) -> None:
    """A record now and then is enough, however long a hundred kilobytes take."""
    came, resting = bytearray(), threading.Event()

    def script(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        while part := sock.recv(16_384):
            came.extend(part)
            resting.wait(0.25)

    content = os.urandom(131_072)
    with scripted.peer(over_tls(own.called(), script)) as remote:
        sock = socket.create_connection((remote.host, remote.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        wire = SecureWire(sock, "the peer", 2.0, caller_context(own.trusted), remote.host)
        wire.shake_hands()
        began = time.monotonic()
        wire.send([content])
        assert time.monotonic() - began > wire.limit
        wire.close()
    assert came == content


def test_a_peer_that_stops_reading_ends_in_time(own: Identity, tmp_path: Path) -> None:
    """Neither the send nor the farewell waits longer than it may."""
    big = dicom_files.write_large(tmp_path / "big.dcm", 20_000_000)
    done = threading.Event()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.recv(1)
        done.wait(30)

    with scripted.peer(over_tls(own.called(), script)) as remote:
        began = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="accepted nothing"):
            _store(remote.model_copy(update={"tls": own.trusted}), big, HASTY)
        assert time.monotonic() - began < 10
        done.set()


def test_a_file_that_shrinks_while_it_is_sent_fails_alone(own: Identity, tmp_path: Path) -> None:
    """Over TLS no memory map is touched, which would end the process."""
    big = dicom_files.write_large(tmp_path / "big.dcm", 40_000_000)

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.recv(1)
        os.truncate(big, 100_000)
        scripted.wait_for_end(sock)

    instance = part10.read_instance(str(big))
    [(proposed, _)] = contexts.contexts_for([instance])
    with scripted.peer(over_tls(own.called(), script)) as remote:
        assoc = Association.open(LOCAL, remote.model_copy(update={"tls": own.trusted}), proposed, PATIENT)
        outcome = store(assoc, instance)
        assert not assoc.reusable()
    assert (outcome.category, outcome.error) == (InstanceCategory.FAILED, "UnreadableInputError")
    assert "became shorter" in outcome.reason


_MEASURED = """
import json, resource, sys
from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse import contexts, part10
from pacs_tasks.dimse.association import Association, Timeouts
from pacs_tasks.dimse.c_store import store

remote = RemoteAE.model_validate_json(sys.argv[1])
peaks = []
for path in sys.argv[2:]:
    instance = part10.read_instance(path)
    [(proposed, _)] = contexts.contexts_for([instance])
    with Association.open(LocalAE(), remote, proposed, Timeouts.of(60)) as assoc:
        assert store(assoc, instance).category == "success"
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("max_length", [16_384, 0])
def test_a_large_file_needs_no_more_memory_than_a_small_one(own: Identity, tmp_path: Path, max_length: int) -> None:
    """300 MB go out in constant memory, whatever length of PDU the peer takes."""
    small = dicom_files.write_large(tmp_path / "small.dcm", 3_000_000)
    large = dicom_files.write_large(tmp_path / "large.dcm", 300_000_000)

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock, max_length)
        context_id, _ = scripted.read_message(sock)
        sock.sendall(scripted.store_response(context_id))
        _agree_to_release(sock)

    with scripted.peer(over_tls(own.called(), script)) as remote:
        asked = remote.model_copy(update={"tls": own.trusted}).model_dump_json()
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, asked, small, large],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert after - before < 2_000, (before, after)


def test_an_idle_association_is_reusable_until_the_peer_speaks(own: Identity) -> None:
    """What TLS has to say for itself, such as tickets that come late, is no word of the peer; an abort is."""
    speak, spoken = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        speak.wait(20)
        sock.sendall(b"\7\0\0\0\0\4\0\0\0\0")
        spoken.set()
        scripted.wait_for_end(sock)

    with scripted.peer(over_tls(own.called(ssl.TLSVersion.TLSv1_3), script)) as remote:
        asked = remote.model_copy(update={"tls": own.trusted})
        assoc = Association.open(LOCAL, asked, [Context(VERIFICATION, (IMPLICIT,))], PATIENT)
        assert assoc.reusable()
        assert assoc.reusable()
        speak.set()
        assert spoken.wait(10)
        wait_until(lambda: not assoc.reusable(), 10, "the abort to be seen")
        assoc.release()


@VERSIONS
def test_many_messages_over_one_association(own: Identity, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Between them it is always reusable: nothing that TLS reads ahead is lost or takes part in the decision."""
    instances = [part10.read_instance(str(path)) for path in dicom_files.write_series(tmp_path / "ct", 50)]
    [(proposed, _)] = contexts.contexts_for(instances)
    with TestPACS(tls=own.shown) as pacs, Association.open(LOCAL, pacs.remote, proposed, PATIENT) as assoc:
        for instance in instances:
            assert store(assoc, instance).category is InstanceCategory.SUCCESS
            assert assoc.reusable()
        assert (len(pacs.instances), pacs.associations) == (50, 1)


def test_testpacs_demands_certificates(authority: Authority, own: Identity) -> None:
    """With authorities it takes only callers whom they have signed; one that says nothing holds nobody up."""
    with TestPACS(tls=own.tls) as pacs, socket.create_connection((pacs.host, pacs.port)):
        with pytest.raises(TLSError, match="wants a certificate of ours"):
            echo(LOCAL, pacs.remote, PATIENT)
        caller = authority.identity("caller").tls
        outcome = echo(LOCAL, pacs.remote.model_copy(update={"tls": caller}), PATIENT)
        assert outcome.category is Category.SUCCESS
