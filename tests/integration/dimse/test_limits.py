"""Remotes that are never silent and never finish: each operation ends in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.request import FindRequest
from tests.support import scripted
from tests.support.dicom_files import instance, write
from tests.support.queries import find
from tests.support.sending import store
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")
#: Longer than any silence here; whole operations may take less.
LIMITS = Timeouts.of(20, operation=0.6)
#: Seconds between two bytes.
TRICKLE = 0.02


@contextmanager
def ending_soon() -> Iterator[None]:
    """Check that the block ends well before any silence could end it."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 10


def trickle(sock: socket.socket, content: bytes, clock: threading.Event) -> None:
    """Send single bytes until the other side ends it."""
    for byte in content:
        sock.sendall(bytes([byte]))
        clock.wait(TRICKLE)


def test_matches_without_end_are_cut_off() -> None:
    """Endless pending responses end at the limit."""
    clock = threading.Event()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        pending = command.encode(
            {
                command.COMMAND_FIELD: command.C_FIND_RQ | command.RESPONSE,
                command.MESSAGE_ID_RESPONDED_TO: 1,
                command.STATUS: 0xFF00,
            },
            data_set=True,
        )
        match = b"\x08\0\x52\0\x06\0\0\0STUDY "
        while not clock.wait(TRICKLE):
            sock.sendall(scripted.p_data(context_id, 3, pending) + scripted.p_data(context_id, 2, match))

    with scripted.peer(script) as remote, ending_soon():
        with pytest.raises(PeerUnavailableError, match=r"did not finish .* within 0.6 s"):
            find(FindRequest(remote=remote), LOCAL, LIMITS)
        clock.set()


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """A response that arrives byte by byte ends at the limit."""
    one = read_instance(str(write(instance(), tmp_path / "a.dcm")))
    clock = threading.Event()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.read_message(sock)
        trickle(sock, b"\4\0\0\0\x40\0" + b"\0" * 10_000, clock)

    ((proposed, _),) = contexts_for([one])
    with scripted.peer(script) as remote, ending_soon():
        assoc = Association.open(LOCAL, remote, proposed, LIMITS)
        with pytest.raises(PeerUnavailableError, match="did not finish"):
            store(assoc, one)
        clock.set()


def test_a_peer_that_takes_a_byte_now_and_then_does_not_hold_us(tmp_path: Path) -> None:
    """A remote that accepts a byte now and then ends at the limit."""
    one = read_instance(str(write(instance(rows=4096), tmp_path / "a.dcm")))
    clock = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        scripted.accept_all(sock)
        while sock.recv(512) and not clock.wait(TRICKLE):
            pass

    ((proposed, _),) = contexts_for([one])
    with scripted.peer(script) as remote, ending_soon():
        assoc = Association.open(LOCAL, remote, proposed, LIMITS)
        with pytest.raises(PeerUnavailableError, match="did not finish"):
            store(assoc, one)
        clock.set()


def test_our_receiver_does_not_wait_for_ever_for_an_instance(tmp_path: Path) -> None:
    """A slow sender does not occupy the receiver for long, and leaves no file."""
    one = instance()
    with StorageSCP("127.0.0.1", 0, tmp_path, LIMITS) as scp, ending_soon():
        with socket.create_connection(("127.0.0.1", scp.port), 10) as sock:
            proposed = (acse.ProposedContext(1, one.SOPClassUID, (one.file_meta.TransferSyntaxUID,)),)
            sock.sendall(acse.encode_request(acse.AssociateRequest("R", "S", proposed)))
            assert scripted.receive_pdu(sock)[0] == 2
            request: dict[int, int | str] = {
                command.AFFECTED_SOP_CLASS_UID: str(one.SOPClassUID),
                command.COMMAND_FIELD: command.C_STORE_RQ,
                command.MESSAGE_ID: 1,
                command.AFFECTED_SOP_INSTANCE_UID: str(one.SOPInstanceUID),
            }
            sock.sendall(scripted.p_data(1, 3, command.encode(request, data_set=True)))
            with pytest.raises(OSError, match=r"\[Errno"):
                trickle(sock, scripted.p_data(1, 0, b"\0" * 30_000), threading.Event())
        wait_until(lambda: not list(tmp_path.iterdir()), 5, "nothing is left behind")


def test_what_takes_its_time_within_the_limit_is_waited_for(tmp_path: Path) -> None:
    """The limit is for each operation, not for the association."""
    one = read_instance(str(write(instance(), tmp_path / "a.dcm")))
    # A busy disk may need long for one instance.
    limits = Timeouts.of(20, operation=3)
    with StorageSCP("127.0.0.1", 0, tmp_path / "r", limits) as scp:
        ((proposed, _),) = contexts_for([one])
        remote = RemoteAE(port=scp.port)
        with Association.open(LOCAL, remote, proposed, limits) as assoc:
            begun = time.monotonic()
            while time.monotonic() - begun < 4:
                assert store(assoc, one).category == "success"
                threading.Event().wait(TRICKLE)
