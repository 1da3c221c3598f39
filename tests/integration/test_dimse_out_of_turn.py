"""What is too long, too many, out of turn or without meaning: the association ends at once, and only that one."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse import acse, command, contexts, part10
from pacs_tasks.dimse.association import MAX_CONTEXTS, Association, Context, Timeouts
from pacs_tasks.dimse.c_echo import VERIFICATION, VERIFICATION_CONTEXT, echo
from pacs_tasks.dimse.c_get import get
from pacs_tasks.dimse.c_store import store
from pacs_tasks.dimse.storage_scp import StorageSCP
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import Category, InstanceCategory
from pacs_tasks.request import GetRequest
from tests.support import dicom_files, messages, peculiar, scripted
from tests.support.messages import CT, EXPLICIT, IMPLICIT

LOCAL = LocalAE(ae_title="CALLER")
HASTY = Timeouts.of(5)
UID = "1.2.3"
DATA_SET = peculiar.data_set(b"1.2.3\0")
STORE = messages.message(messages.store_request(UID), DATA_SET)
ECHO: dict[int, int | str] = {
    command.AFFECTED_SOP_CLASS_UID: VERIFICATION,
    command.COMMAND_FIELD: command.C_ECHO_RQ,
    command.MESSAGE_ID: 7,
}
#: What we accept of it: 1 and 5, not 3.
REQUEST = messages.association_request(
    16_384, (CT, EXPLICIT), ("1.2.840.10008.5.1.4.1.2.2.1", IMPLICIT), (CT, IMPLICIT)
)


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[StorageSCP]:
    """A Storage SCP with its files in ``received``."""
    with StorageSCP(LocalAE(ae_title="RECEIVER"), "127.0.0.1", 0, tmp_path / "received", HASTY) as running:
        yield running


@contextmanager
def _calling(scp: StorageSCP, request: bytes = REQUEST) -> Iterator[tuple[socket.socket, acse.AssociateAccept]]:
    """Be a caller whose association is accepted."""
    with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock:
        sock.sendall(request)
        kind, content = scripted.read_pdu(sock)
        assert kind == 2
        yield sock, acse.decode_accept(memoryview(content))


def _ends(sock: socket.socket) -> bytes:
    """What comes until the receiver hangs up: that is at once, and not when the time is up."""
    sock.settimeout(3)
    try:
        return scripted.wait_for_end(sock)
    except ConnectionResetError:
        # It hung up before it had read everything.
        return b""


def _status(sock: socket.socket) -> int | None:
    return command.decode(scripted.read_pdu(sock)[1][6:]).number(command.STATUS)


#: What ends an accepted association.
OUT_OF_TURN = {
    "type 0": messages.pdu(0, b"abcd"),
    "type 8": messages.pdu(8, b"abcd"),
    "type 255": messages.pdu(255, b""),
    "a length of 4 GB": b"\4\0\xff\xff\xff\xff" + bytes(100),
    "a length above the maximum": struct.pack(">BxL", 4, (1 << 20) + 1),
    "an association request": REQUEST,
    "an acceptance": acse.encode_accept(acse.AssociateAccept({}), acse.AssociateRequest("A", "B", ())),
    "a rejection": acse.encode_reject(1, 1, 1),
    "an agreement to a release": messages.RELEASED,
    "a P-DATA-TF without a PDV": messages.pdu(4, b""),
    "a PDV that is too long": messages.pdu(4, struct.pack(">LBB", 100, 1, 3) + b"x"),
    "a PDV that is too short": messages.pdu(4, struct.pack(">LBB", 1, 1, 3)),
    "a context that was not proposed": messages.message(messages.store_request(UID), DATA_SET, 7),
    "a context with an even id": messages.message(messages.store_request(UID), DATA_SET, 2),
    "context 0": messages.message(command.encode(ECHO, data_set=False), None, 0),
    "a context that was refused": messages.message(command.encode(ECHO, data_set=False), None, 3),
    "a data set without a command set": messages.p_data(messages.pdv(2, DATA_SET)),
    "a command set in two contexts": messages.p_data(messages.pdv(1, b"\0" * 8), messages.pdv(3, b"\0" * 8, 5)),
    "a data set in another context": messages.message(messages.store_request(UID))
    + messages.p_data(messages.pdv(2, DATA_SET, 5)),
    "two command sets": messages.message(messages.store_request(UID)) * 2,
    "a command set without end": messages.p_data(messages.pdv(1, bytes(60_000))) * 2,
    "a command set that is cut off": messages.message(messages.store_request(UID)[:-3]),
    "a response": messages.message(messages.response(command.C_STORE_RQ, 0)),
    "a message without a command": messages.message(command.encode({command.MESSAGE_ID: 1}, data_set=False)),
}


@pytest.mark.parametrize("said", OUT_OF_TURN.values(), ids=OUT_OF_TURN.keys())
def test_a_caller_out_of_turn_is_hung_up_on(scp: StorageSCP, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The receiver aborts at once, has nothing of it on disk, and serves the next caller."""
    with _calling(scp) as (sock, _), caplog.at_level(logging.WARNING):
        sock.sendall(said)
        assert _ends(sock)[:1] in {b"", b"\7"}
    assert echo(LOCAL, RemoteAE(port=scp.port), HASTY).category is Category.SUCCESS
    assert "association ended" in caplog.text
    assert "fault" not in caplog.text
    assert not list(scp.directory.rglob("*"))


@pytest.mark.parametrize(
    "first",
    [STORE, messages.RELEASE, messages.RELEASED, messages.ABORT, messages.pdu(9, b""), acse.encode_reject(1, 1, 1)],
    ids=["P-DATA", "release", "released", "abort", "unknown", "rejection"],
)
def test_nothing_goes_before_the_association(scp: StorageSCP, first: bytes) -> None:
    """Whoever begins with anything but an association request is hung up on, also with a request behind it."""
    with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock:
        sock.sendall(first + REQUEST + STORE)
        assert _ends(sock)[:1] in {b"", b"\7"}
    assert not list(scp.directory.rglob("*"))


def test_a_cancel_that_nobody_awaits_is_no_matter(scp: StorageSCP) -> None:
    """C-CANCEL of a message that is not under way gets no answer, and the association goes on."""
    cancel = command.encode(
        {command.COMMAND_FIELD: command.C_CANCEL_RQ, command.MESSAGE_ID_RESPONDED_TO: 9}, data_set=False
    )
    with _calling(scp) as (sock, _):
        sock.sendall(messages.message(cancel) * 3 + STORE + messages.message(cancel))
        assert _status(sock) == 0
        sock.sendall(messages.RELEASE)
        assert _ends(sock) == messages.RELEASED
    assert [path.stem for path in scp.directory.rglob("*.dcm")] == [UID]


@pytest.mark.parametrize(
    ("field", "data_set", "code"),
    [(command.C_FIND_RQ, b"x" * 100, 0x0211), (0x0140, None, 0x0211), (0x0150, b"", 0x0211), (0x0FFE, None, 0x0211)],
)
def test_what_is_not_served_is_answered(scp: StorageSCP, field: int, data_set: bytes | None, code: int) -> None:
    """Other requests are answered "unrecognised operation", their data sets left aside, and the association goes on."""
    asked = command.encode({command.COMMAND_FIELD: field, command.MESSAGE_ID: 5}, data_set=data_set is not None)
    with _calling(scp) as (sock, _):
        sock.sendall(messages.message(asked, data_set) + STORE)
        assert (_status(sock), _status(sock)) == (code, 0)


def _long(number: int) -> str:
    """A UID of 64 characters."""
    return f"2.25.{number + 1}" + "7" * (59 - len(str(number + 1)))


def test_128_contexts_of_long_lists(scp: StorageSCP, tmp_path: Path) -> None:
    """A request of 128 contexts with forty transfer syntaxes of 64 characters each is answered context by context."""
    proposed = tuple(
        acse.ProposedContext(2 * number + 1, _long(number), tuple(_long(1_000 * number + each) for each in range(40)))
        for number in range(MAX_CONTEXTS)
    )
    request = acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", proposed))
    assert len(request) > 300_000
    with _calling(scp, request) as (sock, accept):
        assert accept.results == {cx.context_id: (acse.ACCEPTED, cx.transfer_syntaxes[0]) for cx in proposed}
        sock.sendall(messages.message(messages.store_request(UID, sop_class_uid=_long(127)), DATA_SET, 255))
        assert _status(sock) == 0
    [kept] = scp.directory.rglob("*.dcm")
    assert dicom_files.data_set(kept) == DATA_SET
    # The same list the other way round: a peer that accepts all of it.
    with scripted.peer(_accept_and_wait) as remote:
        wanted = [Context(cx.abstract_syntax, cx.transfer_syntaxes) for cx in proposed]
        with Association.open(LOCAL, remote, wanted, HASTY) as assoc:
            assert assoc.accepted == {(cx.abstract_syntax, cx.transfer_syntaxes[0]): cx.context_id for cx in proposed}


def _accept_and_wait(sock: socket.socket) -> None:
    scripted.accept_all(sock)
    scripted.read_pdu(sock)
    sock.sendall(messages.RELEASED)


def test_a_request_beyond_all_measure_is_hung_up_on(scp: StorageSCP) -> None:
    """Above a mebibyte a request is not read at all."""
    with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock:
        sock.sendall(struct.pack(">BxL", 1, (1 << 20) + 1) + bytes(1000))
        assert _ends(sock)[:1] in {b"", b"\7"}


def test_contexts_of_one_id_or_none(scp: StorageSCP) -> None:
    """Of two contexts of one id the last counts, a context without a transfer syntax is refused, and none is agreed."""
    proposed = (
        acse.ProposedContext(1, CT, (EXPLICIT,)),
        acse.ProposedContext(1, "1.2.840.10008.5.1.4.1.1.4", (IMPLICIT,)),
        acse.ProposedContext(3, CT, ()),
    )
    request = acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", proposed))
    with _calling(scp, request) as (sock, accept):
        assert accept.results[1] == (acse.ACCEPTED, IMPLICIT)
        assert accept.results[3][0] == acse.TRANSFER_SYNTAXES_NOT_SUPPORTED
        sock.sendall(STORE)
        # It is of another class than the context.
        assert _status(sock) == 0x0122
    with _calling(scp, acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", ()))) as (sock, accept):
        assert accept.results == {}
        sock.sendall(messages.RELEASE)
        assert _ends(sock) == messages.RELEASED


# The other way round: what a peer answers


def _answering(said: bytes) -> scripted.Script:
    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.sendall(said)
        scripted.wait_for_end(sock)

    return script


#: A C-STORE request where a response is due, and what else a caller does not expect.
TO_A_CALLER = {
    **{name: said for name, said in OUT_OF_TURN.items() if name != "a response"},
    "a request": STORE,
    "a cancel": messages.message(
        command.encode({command.COMMAND_FIELD: command.C_CANCEL_RQ, command.MESSAGE_ID_RESPONDED_TO: 1}, data_set=False)
    ),
}


@pytest.mark.parametrize("said", TO_A_CALLER.values(), ids=TO_A_CALLER.keys())
def test_a_peer_out_of_turn_is_no_answer(said: bytes, tmp_path: Path) -> None:
    """A caller that gets it instead of its response ends the association with one error that names the peer."""
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    instance = part10.read_instance(str(path))
    [(proposed, _)] = contexts.contexts_for([instance])
    with scripted.peer(_answering(said)) as remote:
        assoc = Association.open(LOCAL, remote, [*proposed, Context(CT, (IMPLICIT,))], HASTY)
        with pytest.raises(PeerUnavailableError) as caught:
            store(assoc, instance)
        assert str(remote) in caught.value.message
        assert not assoc.reusable()


def test_an_instance_in_a_context_that_was_refused_is_none(tmp_path: Path) -> None:
    """During C-GET a peer may send only in contexts that it has accepted."""

    def script(sock: socket.socket) -> None:
        _, content = scripted.read_pdu(sock)
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
            get(request, LOCAL, HASTY, sop_class_uids=[CT])
    assert not list((tmp_path / "got").rglob("*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda accept: accept,
        # Contexts that nobody proposed.
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
    """Results, roles and lengths that nobody asked for are left aside; what was proposed is accepted."""

    def script(sock: socket.socket) -> None:
        _, content = scripted.read_pdu(sock)
        request = acse.decode_request(memoryview(content))
        accept = acse.AssociateAccept({cx.context_id: (0, cx.transfer_syntaxes[0]) for cx in request.contexts})
        sock.sendall(acse.encode_accept(change(accept), request))
        scripted.read_message(sock)
        answer = messages.response(command.C_ECHO_RQ, 0)
        sock.sendall(messages.message(answer))
        scripted.read_pdu(sock)
        sock.sendall(messages.RELEASED)

    with scripted.peer(script) as remote:
        assert echo(LOCAL, remote, HASTY).category is Category.SUCCESS


def test_a_peer_that_keeps_its_maximum_to_itself_gets_what_all_take(tmp_path: Path) -> None:
    """Where the user information names no maximum length, in either direction, PDUs are of the usual 16 KiB at most."""
    lengths: list[int] = []

    def script(sock: socket.socket) -> None:
        _, content = scripted.read_pdu(sock)
        request = acse.decode_request(memoryview(content))
        accept = acse.AssociateAccept({cx.context_id: (0, cx.transfer_syntaxes[0]) for cx in request.contexts})
        sock.sendall(_without_maximum(acse.encode_accept(accept, request)))
        last = False
        while not last:
            _, content = scripted.read_pdu(sock)
            lengths.append(len(content))
            last = content[5] == 2
        sock.sendall(messages.message(messages.response(command.C_STORE_RQ, 0)))
        scripted.read_pdu(sock)
        sock.sendall(messages.RELEASED)

    instance = part10.read_instance(str(dicom_files.write(dicom_files.instance(rows=512), tmp_path / "a.dcm")))
    [(proposed, _)] = contexts.contexts_for([instance])
    with scripted.peer(script) as remote, Association.open(LOCAL, remote, proposed, HASTY) as assoc:
        assert store(assoc, instance).category is InstanceCategory.SUCCESS
    assert 16_000 < max(lengths) <= 16_384
    assert acse.decode_request(memoryview(_without_maximum(REQUEST))[6:]).max_length == 16_384


def _without_maximum(encoded: bytes) -> bytes:
    """The same PDU without the Maximum Length sub-item, which stands first in the user information."""
    at = encoded.rindex(b"\x50\0", 0, encoded.index(b"\x51\0\0\4"))
    length = struct.unpack_from(">H", encoded, at + 2)[0] - 8
    changed = encoded[: at + 2] + struct.pack(">H", length) + encoded[at + 12 :]
    return changed[:2] + struct.pack(">L", len(changed) - 6) + changed[6:]


@pytest.mark.parametrize("late", [False, True])
def test_what_nobody_asked_for_is_not_taken_for_the_next_answer(late: bool) -> None:
    """An association on which more has come than was asked for is not used again, be it in one PDU or in the next."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.read_message(sock)
        answer = messages.pdv(3, messages.response(command.C_ECHO_RQ, 0))
        more = messages.pdv(3, messages.response(command.C_ECHO_RQ, 0, message_id=2))
        sock.sendall(messages.p_data(answer) + messages.p_data(more) if late else messages.p_data(answer, more))
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        assoc = Association.open(LOCAL, remote, [VERIFICATION_CONTEXT], HASTY)
        with assoc.exchange() as message_id:
            assoc.send(1, command.encode({**ECHO, command.MESSAGE_ID: message_id}, data_set=False))
            assert assoc.read_response(1, message_id, command.C_ECHO_RQ)[1] == 0
        assert not assoc.reusable()
        assoc.abort()
