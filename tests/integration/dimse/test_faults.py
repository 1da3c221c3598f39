"""Remotes that break the protocol, fall silent or hang up: one clear error in time."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.c_echo import VERIFICATION, echo
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer import command, contexts
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import InvalidRequestError, JobCancelledError, PeerUnavailableError
from pacs_tasks.outcome import InstanceCategory
from tests.support import dicom_files, scripted
from tests.support.ports import free_port
from tests.support.sending import LOCAL, send, store

PATIENT = Timeouts.of(20)
#: For silent remotes and failing connections.
HASTY = Timeouts(connect=20, acse=20, dimse=1)
NO_CONNECTION = Timeouts(connect=1, acse=20, dimse=20)
ABORT = b"\7\0\0\0\0\4\0\0\2\1"
RELEASE = b"\5\0\0\0\0\4\0\0\0\0"
IMPLICIT = "1.2.840.10008.1.2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make a file of half a megabyte."""
    return dicom_files.write(dicom_files.instance(rows=512), tmp_path / "a.dcm")


def _answer(context_id: int, **changed: int | str | None) -> bytes:
    """Make a C-STORE response to message 1; elements that are ``None`` are omitted."""
    elements: dict[int, int | str] = {
        command.COMMAND_FIELD: command.C_STORE_RQ | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: 1,
        command.STATUS: 0,
    }
    for name, value in changed.items():
        element = getattr(command, name)
        elements.pop(element, None)
        if value is not None:
            elements[element] = value
    return scripted.p_data(context_id, 3, command.encode(elements, data_set=False))


def _say_nothing(sock: socket.socket) -> None:
    scripted.wait_for_end(sock)


def _answering(reply: Callable[[int], bytes]) -> scripted.Script:
    """Accept, read one message, send ``reply`` and hang up."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        sock.sendall(reply(context_id))

    return script


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (b"", "closed the connection"),
        (ABORT, "aborted the association instead of accepting it"),
        (b"\2\0\xff\xff\xff\xff" + b"x" * 100, "breaks the DICOM protocol"),
        (b"\2\0\0\0\0\4abcd", "breaks the DICOM protocol"),
        (b"\2\0\0\0\0\x64" + b"\xff" * 100, "breaks the DICOM protocol"),
        (b"\4\0\0\0\0\4abcd", "breaks the DICOM protocol"),
        (b"\2\0\0\0", "closed the connection"),
    ],
)
def test_a_wrong_answer_to_the_association_request(first: bytes, says: str) -> None:
    """EOF, abort, another protocol, absurd lengths and garbage each give one error that names the remote."""

    def script(sock: socket.socket) -> None:
        scripted.receive_pdu(sock)
        sock.sendall(first)

    with scripted.peer(script) as remote, pytest.raises(PeerUnavailableError, match=says) as caught:
        echo(LOCAL, remote, PATIENT)
    assert str(remote) in caught.value.message


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (lambda _: b"", "closed the connection"),
        (lambda _: ABORT, "aborted the association .*DICOM layer: Unrecognised PDU"),
        (lambda _: RELEASE, "released the association"),
        (lambda _: b"\4\0\0\0", "closed the connection"),
        (lambda _: b"\4\0\0\0\0\4\0\0\0\x50", "malformed P-DATA"),
        (
            lambda _: os.urandom(500).replace(b"\7", b"\0").replace(b"\5", b"\0").replace(b"\4", b"\0"),
            "protocol|closed",
        ),
        (lambda cx: _answer(cx, STATUS=None), "without a status"),
        (lambda cx: _answer(cx, MESSAGE_ID_RESPONDED_TO=2), "another message"),
        (lambda cx: _answer(cx, MESSAGE_ID_RESPONDED_TO=None), "another message"),
        (lambda cx: _answer(cx, COMMAND_FIELD=command.C_ECHO_RQ | command.RESPONSE), "another message"),
        (lambda cx: _answer(cx + 200), "was not accepted"),
        (lambda cx: scripted.p_data(cx, 3, b""), "another message"),
        (lambda cx: scripted.p_data(cx, 3, b"garbage"), "an invalid message"),
        (lambda cx: scripted.p_data(cx, 2, b"data"), "data set instead of a command"),
        (lambda cx: scripted.p_data(cx, 1, b"x" * 60_000) * 3, "endless"),
    ],
)
def test_what_is_no_answer_is_never_success(path: Path, reply: Callable[[int], bytes], says: str) -> None:
    """Anything but a response with a status is an error, and the association is closed."""
    with scripted.peer(_answering(reply)) as remote, pytest.raises(PeerUnavailableError, match=says) as caught:
        send(remote, path, PATIENT)
    assert str(remote) in caught.value.message


def test_an_answer_for_another_instance_does_not_count(path: Path) -> None:
    """Success for another SOP Instance UID is not success for this instance."""
    with scripted.peer(_answering(lambda cx: _answer(cx, AFFECTED_SOP_INSTANCE_UID="1.2.3"))) as remote:
        outcome = send(remote, path, PATIENT)
    assert outcome.category is InstanceCategory.FAILED
    assert "another instance" in outcome.reason


def test_an_early_answer_is_heard(path: Path) -> None:
    """A remote may respond before it has read everything; the rest is still sent and the status counts."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        _, content = scripted.receive_pdu(sock)
        elements: dict[int, int | str] = {
            command.COMMAND_FIELD: command.C_STORE_RQ | command.RESPONSE,
            command.MESSAGE_ID_RESPONDED_TO: 1,
            command.STATUS: 0xA700,
        }
        sock.sendall(scripted.p_data(content[4], 3, command.encode(elements, data_set=False)))
        scripted.let_go(sock)

    with scripted.peer(script) as remote:
        outcome = send(remote, path, PATIENT)
    assert outcome.status is not None
    assert outcome.status.code == 0xA700


def test_a_peer_that_stops_reading_ends_in_time(tmp_path: Path) -> None:
    """Sending ends with an error when the remote stops reading."""
    big = dicom_files.write(dicom_files.instance(rows=3000), tmp_path / "big.dcm")
    done = threading.Event()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.recv(1)
        # It stops reading, and the buffers of the socket fill.
        done.wait(30)

    with scripted.peer(script) as remote:
        began = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="accepted nothing"):
            send(remote, big, HASTY)
        assert time.monotonic() - began < 10
        done.set()


def test_silence_in_the_middle_of_a_pdu_ends_in_time(path: Path) -> None:
    """Silence after half a response is a time-out, and the association is not reused."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        sock.sendall(_answer(context_id)[:20])
        scripted.wait_for_end(sock)

    instance = part10.read_instance(str(path))
    [(proposed, _)] = contexts.contexts_for([instance])
    with scripted.peer(script) as remote:
        assoc = Association.open(LOCAL, remote, proposed, HASTY)
        with pytest.raises(PeerUnavailableError, match="C-STORE response did not arrive within 1 s"):
            store(assoc, instance)
        assert not assoc.reusable()
        with pytest.raises(PeerUnavailableError, match="has ended"):
            store(assoc, instance)


def test_both_may_ask_to_release_at_once() -> None:
    """A release collision ends without an error (PS3.8 section 7.2.2.7)."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.receive_pdu(sock)
        sock.sendall(RELEASE)
        assert scripted.receive_pdu(sock)[0] == 6
        sock.sendall(b"\6\0\0\0\0\4\0\0\0\0")

    with scripted.peer(script) as remote:
        Association.open(LOCAL, remote, [Context(VERIFICATION, (IMPLICIT,))], PATIENT).release()


def test_a_transfer_syntax_that_was_not_proposed_is_no_acceptance() -> None:
    """A context accepted with a syntax that was not proposed counts as rejected."""

    def script(sock: socket.socket) -> None:
        _, content = scripted.receive_pdu(sock)
        request = acse.decode_request(memoryview(content))
        accept = acse.AssociateAccept({cx.context_id: (0, "1.2.3") for cx in request.contexts})
        sock.sendall(acse.encode_accept(accept, request))
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        assoc = Association.open(LOCAL, remote, [Context(VERIFICATION, (IMPLICIT,))], PATIENT)
        assert not assoc.accepted_contexts
        assoc.abort()


def test_nobody_there() -> None:
    """A refused connection and an unknown host name the next step."""
    for remote in (RemoteAE(port=free_port()), RemoteAE(host="no-such-host.invalid")):
        with pytest.raises(PeerUnavailableError, match="Check the IP address and port") as caught:
            echo(LOCAL, remote, Timeouts.of(5))
        assert str(remote) in caught.value.message


def test_a_connection_that_never_comes_about_ends_in_time() -> None:
    """A listener with a full queue does not answer: the connect limit ends the wait, and a cancelled job sooner."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        remote = RemoteAE(port=address[1])
        try:
            with pytest.raises(PeerUnavailableError, match=r"within 1 s"):
                echo(LOCAL, remote, NO_CONNECTION)
            asked = count()
            with pytest.raises(JobCancelledError):
                echo(LOCAL, remote, PATIENT, lambda: next(asked) > 1)
        finally:
            for filler in fillers:
                filler.close()


def test_stop_ends_the_wait_for_an_association() -> None:
    """A cancelled job does not wait for a remote that accepts the connection and stays silent."""
    asked = count()
    began = time.monotonic()
    with scripted.peer(_say_nothing) as remote, pytest.raises(JobCancelledError):
        echo(LOCAL, remote, PATIENT, lambda: next(asked) > 1)
    assert time.monotonic() - began < 10


def test_no_contexts_and_too_many_are_refused_here() -> None:
    """An association has 1 to 128 contexts; otherwise no connection is opened."""
    for number in (0, 129):
        with pytest.raises(InvalidRequestError, match="128"):
            Association.open(LOCAL, RemoteAE(port=free_port()), [Context("1.2", ("1.3",))] * number, PATIENT)


def test_a_file_that_shrinks_while_it_is_sent_fails_alone(tmp_path: Path) -> None:
    """A shrinking file ends in a failed instance and an aborted association, not in a crash."""
    big = dicom_files.write(dicom_files.instance(rows=4000), tmp_path / "big.dcm")

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.recv(1)
        os.truncate(big, 100_000)
        scripted.wait_for_end(sock)

    instance = part10.read_instance(str(big))
    [(proposed, _)] = contexts.contexts_for([instance])
    with scripted.peer(script) as remote:
        assoc = Association.open(LOCAL, remote, proposed, PATIENT)
        outcome = store(assoc, instance)
    assert (outcome.category, outcome.error) == (InstanceCategory.FAILED, "UnreadableInputError")
    assert not assoc.reusable()
