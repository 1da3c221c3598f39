"""Sending over TLS: every byte arrives, whatever the size and however the remote reads."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pacs_tasks.dimse.c_echo import VERIFICATION
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.dimse.upper_layer.tls import SecureWire, caller_context
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import InstanceCategory
from pacs_tasks.testing import TestPACS
from tests.support import dicom_files, scripted
from tests.support.certificates import VERSIONS, Authority, Identity, over_tls
from tests.support.processes import ROOT, environment
from tests.support.sending import LOCAL, send, store
from tests.support.waiting import wait_until

#: Enough time for the handshake and the association.
HASTY = Timeouts(connect=20, acse=20, dimse=1)
PATIENT = Timeouts.of(20)
IMPLICIT = "1.2.840.10008.1.2"


@pytest.fixture
def own(tmp_path: Path) -> Identity:
    """Make the certificate of the PACS."""
    return Authority(tmp_path).identity()


@VERSIONS
def test_every_shipped_instance_arrives_to_the_byte(own: Identity, version: ssl.TLSVersion) -> None:
    """Instances of every class and syntax, small and large, arrive unchanged."""
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
    """After a pause, and a partly accepted record, the rest follows correctly."""
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
            _, content = scripted.receive_pdu(sock)
            context_id = content[4]
            if content[5] & 1:
                continue
            came.extend(content[6:])
            number += 1
            if number % 200 == 1 and len(came) < 2_000_000:
                # Longer than one write waits.
                resting.wait(0.6)
            if content[5] & 2:
                break
        sock.sendall(scripted.store_response(context_id))
        scripted.let_go(sock)
        scripted.wait_for_end(sock)

    with scripted.peer(over_tls(own.called(), script)) as remote:
        outcome = send(remote.model_copy(update={"tls": own.trusted}), path, PATIENT)
    assert outcome.category is InstanceCategory.SUCCESS
    assert came == dicom_files.data_set(path)


def test_a_slow_peer_is_not_taken_for_a_silent_one(own: Identity) -> None:
    """A remote that accepts a record now and then is not silent."""
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
        wire.handshake()
        began = time.monotonic()
        wire.send([content])
        assert time.monotonic() - began > wire.limit
        wire.close()
    assert came == content


def test_a_peer_that_stops_reading_ends_in_time(own: Identity, tmp_path: Path) -> None:
    """Neither sending nor closing exceeds its limit."""
    big = dicom_files.write_large(tmp_path / "big.dcm", 20_000_000)
    done = threading.Event()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.recv(1)
        done.wait(30)

    with scripted.peer(over_tls(own.called(), script)) as remote:
        began = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="accepted nothing"):
            send(remote.model_copy(update={"tls": own.trusted}), big, HASTY)
        assert time.monotonic() - began < 10
        done.set()


def test_a_file_that_shrinks_while_it_is_sent_fails_alone(own: Identity, tmp_path: Path) -> None:
    """Over TLS too, a shrinking file fails one instance and not the process."""
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
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.c_store import store_all

remote = RemoteAE.model_validate_json(sys.argv[1])
peaks = []
for path in sys.argv[2:]:
    instance = part10.read_instance(path)
    [(proposed, _)] = contexts.contexts_for([instance])
    with Association.open(LocalAE(), remote, proposed, Timeouts.of(60)) as assoc:
        [(_, outcome)] = store_all(assoc, [instance])
    assert outcome.category == "success"
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("max_length", [16_384, 0])
def test_a_large_file_needs_no_more_memory_than_a_small_one(own: Identity, tmp_path: Path, max_length: int) -> None:
    """300 MB are sent in constant memory, whatever PDU length the remote accepts."""
    small = dicom_files.write_large(tmp_path / "small.dcm", 3_000_000)
    large = dicom_files.write_large(tmp_path / "large.dcm", 300_000_000)

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock, max_length)
        context_id, _ = scripted.read_message(sock)
        sock.sendall(scripted.store_response(context_id))
        scripted.let_go(sock)
        scripted.wait_for_end(sock)

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
    """Records of TLS itself, such as late tickets, do not count as input; an abort does."""
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
    """It stays reusable between messages: data that TLS reads ahead neither get lost nor count as input."""
    instances = [part10.read_instance(str(path)) for path in dicom_files.write_series(tmp_path / "ct", 50)]
    [(proposed, _)] = contexts.contexts_for(instances)
    with TestPACS(tls=own.shown) as pacs, Association.open(LOCAL, pacs.remote, proposed, PATIENT) as assoc:
        for instance in instances:
            assert store(assoc, instance).category is InstanceCategory.SUCCESS
            assert assoc.reusable()
        assert (len(pacs.instances), pacs.associations) == (50, 1)
