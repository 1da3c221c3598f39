"""The SHA-256 of a large instance is computed beside its sending, over the bytes that were sent."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_store import store_all
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.errors import JobCancelledError, PeerUnavailableError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from tests.support import dicom_files, scripted

PATIENT = Timeouts.of(20)
#: Far more than the buffers of two sockets hold.
SIZE = 40_000_000


@pytest.fixture
def large(tmp_path: Path) -> StoredInstance:
    return part10.read_instance(str(dicom_files.write_large(tmp_path / "large.dcm", SIZE)))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """However the sending ends, the thread of the digest has ended before."""
    yield
    assert not [each for each in threading.enumerate() if each.name.startswith("sha256")]


def _send(remote: RemoteAE, instance: StoredInstance, timeouts: Timeouts = PATIENT) -> InstanceOutcome:
    [(proposed, _)] = contexts.contexts_for([instance])
    with Association.open(LocalAE(ae_title="CALLER"), remote, proposed, timeouts) as assoc:
        ((_, outcome),) = store_all(assoc, [instance], digest=True)
        return outcome


def test_a_file_that_changes_has_the_digest_of_what_was_sent(large: StoredInstance) -> None:
    """It is overwritten while it goes out: the receipt is about what the remote has, not about either version."""
    received = bytearray()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        head = sock.recv(1)
        with Path(large.path).open("r+b") as file:
            file.seek(large.data_offset + SIZE // 4)
            file.write(b"\xab" * (SIZE // 2))
        # The rest of the first PDU, whose header has begun.
        rest = int.from_bytes((head + sock.recv(5, socket.MSG_WAITALL))[2:], "big")
        sock.recv(rest, socket.MSG_WAITALL)
        control = 0
        while control != 2:
            _, content = scripted.receive_pdu(sock)
            control = content[5]
            received.extend(content[6:])
        sock.sendall(scripted.store_response(content[4]))
        scripted.let_go(sock)

    before = sha256(dicom_files.data_set(Path(large.path))).hexdigest()
    with scripted.peer(script) as remote:
        outcome = _send(remote, large)
    assert outcome.category is InstanceCategory.SUCCESS
    assert outcome.sha256 == sha256(received).hexdigest() != before


def test_a_file_that_shrinks_has_none(large: StoredInstance) -> None:
    """One error says so, and the association is over."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.recv(1)
        os.truncate(large.path, SIZE // 2)
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        outcome = _send(remote, large)
    assert (outcome.category, outcome.error, outcome.sha256) == (InstanceCategory.FAILED, "UnreadableInputError", "")
    assert "became shorter" in outcome.reason


def test_the_thread_ends_with_the_association(large: StoredInstance) -> None:
    """The remote hangs up, or stops reading, in the middle."""

    def hang_up(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.recv(5_000_000, socket.MSG_WAITALL)

    with scripted.peer(hang_up) as remote, pytest.raises(PeerUnavailableError, match="connection"):
        _send(remote, large)
    ending = threading.Event()

    def stop_reading(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        ending.wait(20)

    with scripted.peer(stop_reading) as remote:
        with pytest.raises(PeerUnavailableError, match="accepted nothing"):
            _send(remote, large, Timeouts.of(1))
        ending.set()


def test_the_thread_ends_with_a_cancelled_job(large: StoredInstance) -> None:
    """It is cancelled while the remote reads nothing."""
    begun, ending = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        begun.set()
        ending.wait(20)

    [(proposed, _)] = contexts.contexts_for([large])
    with scripted.peer(script) as remote:
        with (
            pytest.raises(JobCancelledError),
            Association.open(LocalAE(ae_title="CALLER"), remote, proposed, PATIENT, begun.is_set) as assoc,
        ):
            list(store_all(assoc, [large], digest=True))
        ending.set()
