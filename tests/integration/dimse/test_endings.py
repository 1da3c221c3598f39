"""A remote ends the association at each step in each way: one clear error at once, and no partial result."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import VERIFICATION_CONTEXT
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.retrieve.c_get import get
from pacs_tasks.dimse.retrieve.c_move import move
from pacs_tasks.dimse.upper_layer import command, contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import InstanceCategory
from pacs_tasks.request import FindRequest, GetRequest, Level, MoveRequest
from tests.support import dicom_files, endings, messages, peculiar, scripted
from tests.support.messages import COMMAND, CT
from tests.support.queries import find
from tests.support.sending import store
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")
#: Ends are noticed long before this.
PATIENT = Timeouts.of(60)


# Steps of a C-STORE, seen by the remote

RESPONSE = messages.message(messages.response(command.C_STORE_RQ, 0))


def _asked(sock: socket.socket) -> None:
    scripted.receive_pdu(sock)


def _in_our_acceptance(sock: socket.socket) -> None:
    scripted.receive_pdu(sock)
    sock.sendall(b"\2\0\0\0\0\xb8\0\1\0\0")


def _accepted(sock: socket.socket) -> None:
    scripted.accept_all(sock)


def _has_the_command_set(sock: socket.socket) -> None:
    scripted.accept_all(sock)
    scripted.receive_pdu(sock)


def _has_some_of_the_data_set(sock: socket.socket) -> None:
    scripted.accept_all(sock)
    for _ in range(4):
        scripted.receive_pdu(sock)


def _has_all(sock: socket.socket) -> None:
    scripted.accept_all(sock)
    scripted.read_message(sock)


def _in_a_header(sock: socket.socket) -> None:
    _has_all(sock)
    sock.sendall(RESPONSE[:4])


def _in_the_response(sock: socket.socket) -> None:
    _has_all(sock)
    sock.sendall(RESPONSE[:30])


def _between_fragments(sock: socket.socket) -> None:
    _has_all(sock)
    sock.sendall(messages.p_data(messages.pdv(COMMAND, RESPONSE[12:40])))


Step = Callable[[socket.socket], None]
BETWEEN_PDUS: tuple[Step, ...] = (
    _asked,
    _accepted,
    _has_the_command_set,
    _has_some_of_the_data_set,
    _has_all,
    _between_fragments,
)
WITHIN_A_PDU: tuple[Step, ...] = (_in_our_acceptance, _in_a_header, _in_the_response)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> StoredInstance:
    """Make a file larger than the buffers of two sockets."""
    path = tmp_path_factory.mktemp("large") / "large.dcm"
    return part10.read_instance(str(dicom_files.write(dicom_files.instance(rows=2500), path)))


def _open(remote: RemoteAE, instance: StoredInstance) -> Association:
    [(proposed, _)] = contexts.contexts_for([instance])
    return Association.open(LOCAL, remote, proposed, PATIENT)


def _open_and_store(remote: RemoteAE, instance: StoredInstance) -> None:
    with _open(remote, instance) as assoc:
        store(assoc, instance)


@pytest.mark.parametrize(
    ("step", "ending"),
    [
        *((step, ending) for step in BETWEEN_PDUS for ending in endings.ENDINGS),
        *((step, ending) for step in WITHIN_A_PDU for ending in endings.BREAKS),
    ],
    ids=endings.name,
)
def test_a_store_that_the_peer_ends(step: Step, ending: endings.Ending, large: StoredInstance) -> None:
    """A missing response is an error at once, with the name of the remote, and never success."""

    def script(sock: socket.socket) -> None:
        step(sock)
        ending(sock)

    with scripted.peer(script) as remote, endings.at_once():
        with pytest.raises(PeerUnavailableError) as caught:
            _open_and_store(remote, large)
        assert str(remote) in caught.value.message


@pytest.mark.parametrize("ending", endings.ENDINGS, ids=endings.name)
def test_an_association_that_ends_while_it_is_idle(ending: endings.Ending, tmp_path: Path) -> None:
    """Earlier responses stand, the end is noticed before the next message, and a release does no harm.

    A side that receives a release request responds and sends no request itself.
    """
    said: list[bytes] = []
    instance = part10.read_instance(str(dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")))

    def script(sock: socket.socket) -> None:
        _has_all(sock)
        sock.sendall(RESPONSE)
        said.append(ending(sock) or b"")

    with scripted.peer(script) as remote, endings.at_once(endings.RELEASE):
        assoc = _open(remote, instance)
        assert store(assoc, instance).category is InstanceCategory.SUCCESS
        wait_until(lambda: not assoc.reusable(), 10, "the end to be seen")
        with pytest.raises(PeerUnavailableError):
            store(assoc, instance)
        assoc.release()
    with scripted.peer(script) as remote, endings.at_once(endings.RELEASE):
        assoc = _open(remote, instance)
        assert store(assoc, instance).category is InstanceCategory.SUCCESS
        wait_until(lambda: not assoc.reusable(), 10, "the end to be seen")
        assoc.release()
    if ending is endings.release:
        assert said[1] == messages.RELEASED


@pytest.mark.parametrize("ending", endings.ENDINGS[1:], ids=endings.name)
def test_a_release_that_the_peer_meets_with_another_end(ending: endings.Ending) -> None:
    """Whatever the response to our release, it ends at once and without an error."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.receive_pdu(sock)
        ending(sock)

    with scripted.peer(script) as remote, endings.at_once(endings.RELEASE):
        assoc = Association.open(LOCAL, remote, [VERIFICATION_CONTEXT], PATIENT)
        assoc.release()
        assert assoc.wire.closed


# Several responses


def _instance(number: int) -> bytes:
    return peculiar.data_set(b"1.2.%d\0" % number, peculiar.element(0x7FE0_0010, b"OW", bytes(2000)))


def _find(remote: RemoteAE, directory: Path) -> None:
    find(FindRequest(remote=remote, level=Level.STUDY), LOCAL, PATIENT)


def _move(remote: RemoteAE, directory: Path) -> None:
    move(MoveRequest(remote=remote, study_uid="1.2", move_aet="X"), LOCAL, PATIENT)


def _get(remote: RemoteAE, directory: Path) -> None:
    request = GetRequest(remote=remote, study_uid=peculiar.STUDY_UID, output_dir=str(directory))
    get(request, LOCAL, PATIENT, sop_class_uids=[CT])


def _pending(request: int, identifier: bytes | None = None) -> bytes:
    return messages.message(messages.response(request, 0xFF00, data_set=identifier is not None), identifier)


def _sent(number: int) -> bytes:
    """Make a sub-operation with its data set in two PDUs."""
    first, *others = messages.fragments(_instance(number), 1_500, messages.DATA, 3)
    whole = messages.message(messages.store_request(f"1.2.{number}", 9), None, 3)
    return whole + messages.p_data(first) + b"".join(map(messages.p_data, others))


#: The responses to each request, without the final one.
ANSWERS: dict[Callable[[RemoteAE, Path], None], bytes] = {
    _find: 2 * _pending(command.C_FIND_RQ, peculiar.element(0x0010_0020, b"LO", b"P1")),
    _move: 2 * _pending(command.C_MOVE_RQ),
    _get: _sent(1) + _pending(command.C_GET_RQ) + _sent(2),
}


def _kept(directory: Path) -> dict[str, bytes]:
    """Give all files."""
    return {path.name: dicom_files.data_set(path) for path in directory.rglob("*") if path.is_file()}


def _cuts() -> Iterator[tuple[Callable[[RemoteAE, Path], None], int, endings.Ending]]:
    for ask, answer in ANSWERS.items():
        edges = endings.boundaries(answer)
        yield from ((ask, at, ending) for at in edges for ending in endings.ENDINGS)
        yield from ((ask, at + 9, ending) for at in edges[:-1] for ending in endings.BREAKS)


@pytest.mark.parametrize(("ask", "at", "ending"), list(_cuts()), ids=endings.name)
def test_several_responses_that_end_early(
    ask: Callable[[RemoteAE, Path], None], at: int, ending: endings.Ending, tmp_path: Path
) -> None:
    """A query or retrieve without its final response has no outcome; complete instances are kept."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.read_message(sock)
        sock.sendall(ANSWERS[ask][:at])
        ending(sock)

    with scripted.peer(script) as remote, endings.at_once():
        with pytest.raises(PeerUnavailableError) as caught:
            ask(remote, tmp_path / "got")
        assert str(remote) in caught.value.message
    whole = endings.whole(ANSWERS[ask][:at]) if ask is _get else {}
    # A reset discards unread data.
    kept = _kept(tmp_path / "got")
    assert kept.items() <= whole.items() if ending is endings.reset else kept == whole
