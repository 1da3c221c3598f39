"""Remotes with oversized, unexpected or meaningless responses: one clear error at once."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.c_echo import VERIFICATION_CONTEXT, echo
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.retrieve.c_get import get
from pacs_tasks.dimse.upper_layer import command, contexts
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import Category, InstanceCategory
from pacs_tasks.request import GetRequest
from tests.support import dicom_files, messages, scripted
from tests.support.messages import CT, EXPLICIT, IMPLICIT
from tests.support.out_of_turn import DATA_SET, ECHO, OUT_OF_TURN, REQUEST, STORE, UID, long_lists
from tests.support.sending import store

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)


def _answering(said: bytes) -> scripted.Script:
    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.sendall(said)
        scripted.wait_for_end(sock)

    return script


#: A C-STORE request instead of a response, and other messages that a caller does not expect.
TO_A_CALLER = {
    **{name: said for name, said in OUT_OF_TURN.items() if name != "a response"},
    "a request": STORE,
    "a cancel": messages.message(
        command.encode({command.COMMAND_FIELD: command.C_CANCEL_RQ, command.MESSAGE_ID_RESPONDED_TO: 1}, data_set=False)
    ),
}


@pytest.mark.parametrize("said", TO_A_CALLER.values(), ids=TO_A_CALLER.keys())
def test_a_peer_out_of_turn_is_no_answer(said: bytes, tmp_path: Path) -> None:
    """An unexpected message ends the association with one error that names the remote."""
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    instance = part10.read_instance(str(path))
    [(proposed, _)] = contexts.contexts_for([instance])
    with scripted.peer(_answering(said)) as remote:
        assoc = Association.open(LOCAL, remote, [*proposed, Context(CT, (IMPLICIT,))], PATIENT)
        with pytest.raises(PeerUnavailableError) as caught:
            store(assoc, instance)
        assert str(remote) in caught.value.message
        assert not assoc.reusable()


def test_an_instance_in_a_context_that_was_refused_is_none(tmp_path: Path) -> None:
    """During C-GET a remote may send only in contexts that it has accepted."""

    def script(sock: socket.socket) -> None:
        _, content = scripted.receive_pdu(sock)
        request = acse.decode_request(memoryview(content))
        results = {cx.context_id: (acse.ACCEPTED, cx.transfer_syntaxes[0]) for cx in request.contexts}
        results[request.contexts[-1].context_id] = (acse.USER_REJECTION, "")
        sock.sendall(acse.encode_accept(acse.AssociateAccept(results, 16_384, request.roles), request))
        scripted.read_message(sock)
        sock.sendall(messages.message(messages.store_request(UID), DATA_SET, request.contexts[-1].context_id))
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        request = GetRequest(remote=remote, study_uid="1.2", output_dir=str(tmp_path / "got"))
        with pytest.raises(PeerUnavailableError, match="was not accepted"):
            get(request, LOCAL, PATIENT, sop_class_uids=[CT])
    assert not list((tmp_path / "got").rglob("*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda accept: accept,
        # Contexts that were not proposed.
        lambda accept: acse.AssociateAccept({**accept.results, 77: (0, EXPLICIT), 2: (0, IMPLICIT)}),
        lambda accept: acse.AssociateAccept(accept.results, 0),
        lambda accept: acse.AssociateAccept(accept.results, 1),
        lambda accept: acse.AssociateAccept(accept.results, 0xFFFF_FFFF),
        lambda accept: acse.AssociateAccept(accept.results, roles={"1.2": (True, True)}, operations=(0, 0)),
    ],
)
def test_an_acceptance_may_say_more_than_was_asked(
    change: Callable[[acse.AssociateAccept], acse.AssociateAccept],
) -> None:
    """Results, roles and lengths that were not proposed are ignored."""

    def script(sock: socket.socket) -> None:
        _, content = scripted.receive_pdu(sock)
        request = acse.decode_request(memoryview(content))
        accept = acse.AssociateAccept({cx.context_id: (0, cx.transfer_syntaxes[0]) for cx in request.contexts})
        sock.sendall(acse.encode_accept(change(accept), request))
        scripted.read_message(sock)
        answer = messages.response(command.C_ECHO_RQ, 0)
        sock.sendall(messages.message(answer))
        scripted.receive_pdu(sock)
        sock.sendall(messages.RELEASED)

    with scripted.peer(script) as remote:
        assert echo(LOCAL, remote, PATIENT).category is Category.SUCCESS


def test_a_peer_that_keeps_its_maximum_to_itself_gets_what_all_take(tmp_path: Path) -> None:
    """Without a maximum length in the user information, PDUs have at most the usual 16 KiB."""
    lengths: list[int] = []

    def script(sock: socket.socket) -> None:
        _, content = scripted.receive_pdu(sock)
        request = acse.decode_request(memoryview(content))
        accept = acse.AssociateAccept({cx.context_id: (0, cx.transfer_syntaxes[0]) for cx in request.contexts})
        sock.sendall(_without_maximum(acse.encode_accept(accept, request)))
        last = False
        while not last:
            _, content = scripted.receive_pdu(sock)
            lengths.append(len(content))
            last = content[5] == 2
        sock.sendall(messages.message(messages.response(command.C_STORE_RQ, 0)))
        scripted.receive_pdu(sock)
        sock.sendall(messages.RELEASED)

    instance = part10.read_instance(str(dicom_files.write(dicom_files.instance(rows=512), tmp_path / "a.dcm")))
    [(proposed, _)] = contexts.contexts_for([instance])
    with scripted.peer(script) as remote, Association.open(LOCAL, remote, proposed, PATIENT) as assoc:
        assert store(assoc, instance).category is InstanceCategory.SUCCESS
    assert 16_000 < max(lengths) <= 16_384
    assert acse.decode_request(memoryview(_without_maximum(REQUEST))[6:]).max_length == 16_384


def _without_maximum(encoded: bytes) -> bytes:
    """Remove the Maximum Length sub-item, the first of the user information."""
    at = encoded.rindex(b"\x50\0", 0, encoded.index(b"\x51\0\0\4"))
    length = struct.unpack_from(">H", encoded, at + 2)[0] - 8
    changed = encoded[: at + 2] + struct.pack(">H", length) + encoded[at + 12 :]
    return changed[:2] + struct.pack(">L", len(changed) - 6) + changed[6:]


@pytest.mark.parametrize("late", [False, True])
def test_what_nobody_asked_for_is_not_taken_for_the_next_answer(late: bool) -> None:
    """An association with unrequested input is not reused, whether in the same PDU or the next."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.read_message(sock)
        answer = messages.pdv(3, messages.response(command.C_ECHO_RQ, 0))
        more = messages.pdv(3, messages.response(command.C_ECHO_RQ, 0, message_id=2))
        sock.sendall(messages.p_data(answer) + messages.p_data(more) if late else messages.p_data(answer, more))
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        assoc = Association.open(LOCAL, remote, [VERIFICATION_CONTEXT], PATIENT)
        with assoc.exchange(command.C_ECHO_RQ) as message_id:
            assoc.send(1, command.encode({**ECHO, command.MESSAGE_ID: message_id}, data_set=False))
            assert assoc.receive_response(1, message_id, command.C_ECHO_RQ)[1] == 0
        assert not assoc.reusable()
        assoc.abort()


def test_128_contexts_of_long_lists_may_be_accepted() -> None:
    """A remote may accept all of 128 contexts with forty transfer syntaxes each."""
    proposed = long_lists()
    with scripted.peer(_accept_and_wait) as remote:
        wanted = [Context(cx.abstract_syntax, cx.transfer_syntaxes) for cx in proposed]
        with Association.open(LOCAL, remote, wanted, PATIENT) as assoc:
            assert assoc.accepted_contexts == {
                (cx.abstract_syntax, cx.transfer_syntaxes[0]): cx.context_id for cx in proposed
            }


def _accept_and_wait(sock: socket.socket) -> None:
    scripted.accept_all(sock)
    scripted.receive_pdu(sock)
    sock.sendall(messages.RELEASED)
