"""Whole conversations with damaged bytes in them, and peers that keep to the letter of the protocol only."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse import acse, command, part10
from pacs_tasks.dimse.association import Timeouts
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.c_find import find
from pacs_tasks.dimse.c_get import get
from pacs_tasks.dimse.c_move import move
from pacs_tasks.dimse.storage_scp import StorageSCP
from pacs_tasks.errors import AssociationError, PeerUnavailableError
from pacs_tasks.outcome import Category
from pacs_tasks.request import FindRequest, GetRequest, Level, MoveRequest
from tests.support import callers, dicom_files, scripted

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)
HASTY = Timeouts(connect=5, acse=5, dimse=0.3)
RELEASE = b"\5\0\0\0\0\4\0\0\0\0"
ROUNDS = 60


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The same bytes in every run, others for each test."""
    return random.Random(request.node.name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small file whose UID is as long as a UID may be."""
    ds = dicom_files.instance(rows=8)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{'3' * 59}")
    return dicom_files.write(ds, tmp_path / "a.dcm")


def _mutated(chance: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(min(len(changed), chance.choice((60, 400, len(changed)))))
        new, old = chance.choice(
            ((chance.randbytes(1), 1), (b"", 1), (chance.randbytes(2), 0), (b"\xff\xff\xff\xff", 4))
        )
        changed[at : at + old] = new
    return bytes(changed)


def _request(max_length: int = 16_384) -> bytes:
    proposed = (acse.ProposedContext(1, CTImageStorage, (ExplicitVRLittleEndian,)),)
    return acse.encode_request(acse.AssociateRequest("A_TITLE_OF_16_CH", "CALLER", proposed, max_length))


def _store_request(uid: str) -> bytes:
    elements: dict[int, int | str] = {
        command.AFFECTED_SOP_CLASS_UID: CTImageStorage,
        command.COMMAND_FIELD: command.C_STORE_RQ,
        command.MESSAGE_ID: 1,
        command.PRIORITY: 0,
        command.AFFECTED_SOP_INSTANCE_UID: uid,
    }
    return command.encode(elements, data_set=True)


def _pdv(control: int, content: bytes) -> bytes:
    return struct.pack(">LBB", len(content) + 2, 1, control) + content


def _pdu(*pdvs: bytes) -> bytes:
    whole = b"".join(pdvs)
    return struct.pack(">BxL", 4, len(whole)) + whole


def _pieces(content: bytes, size: int, kind: int) -> list[bytes]:
    """PDVs of ``size`` bytes each, the last one marked."""
    starts = range(0, len(content), size)
    return [_pdv(kind | (2 if at + size >= len(content) else 0), content[at : at + size]) for at in starts]


def _instance(path: Path) -> tuple[bytes, bytes]:
    return _store_request(part10.read_instance(str(path)).sop_instance_uid), dicom_files.data_set(path)


def test_damaged_callers_leave_nothing_and_no_fault(
    path: Path, tmp_path: Path, chance: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a caller sends, the receiver hangs up or answers; no fault, no partial file, the next one is served."""
    request, data_set = _instance(path)
    whole = b"".join(map(_pdu, _pieces(request, 1000, 1) + _pieces(data_set, 100, 0)))
    with StorageSCP(LOCAL, "127.0.0.1", 0, tmp_path / "received", HASTY) as scp:
        for _ in range(4 * ROUNDS):
            damaged = _mutated(chance, _request()) if chance.random() < 0.3 else _request()
            with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock:
                try:
                    sock.sendall(damaged + _mutated(chance, whole + whole + RELEASE))
                    sock.shutdown(socket.SHUT_WR)
                    scripted.wait_for_end(sock)
                except ConnectionError:
                    continue
        assert echo(LOCAL, RemoteAE(port=scp.port), PATIENT).category is Category.SUCCESS
    assert "fault of the receiver" not in caplog.text
    assert not list(scp.directory.glob(".*"))


def _response(request: int, code: int, data_set: bool = False) -> bytes:
    elements: dict[int, int | str] = {
        command.COMMAND_FIELD: request | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: 1,
        command.STATUS: code,
    }
    return command.encode(elements, data_set=data_set)


MATCH = struct.pack("<HH2sH", 0x10, 0x10, b"PN", 4) + b"A^B "
FAILED = struct.pack("<HHL", 8, 0x58, 8) + b"1.2\\1.3 "


def _find(remote: RemoteAE, directory: Path) -> object:
    return find(FindRequest(remote=remote, level=Level.STUDY), LOCAL, HASTY)


def _move(remote: RemoteAE, directory: Path) -> object:
    return move(MoveRequest(remote=remote, study_uid="1.2", move_aet="X"), LOCAL, HASTY)


def _get(remote: RemoteAE, directory: Path) -> object:
    return get(GetRequest(remote=remote, study_uid="1.2", output_dir=str(directory)), LOCAL, HASTY)


def _matches(path: Path) -> bytes:
    match = scripted.p_data(1, 3, _response(command.C_FIND_RQ, 0xFF00, True)) + scripted.p_data(1, 2, MATCH)
    return match * 3 + scripted.p_data(1, 3, _response(command.C_FIND_RQ, 0))


def _moved(path: Path) -> bytes:
    pending = scripted.p_data(1, 3, _response(command.C_MOVE_RQ, 0xFF00))
    return (
        pending * 2 + scripted.p_data(1, 3, _response(command.C_MOVE_RQ, 0xB000, True)) + scripted.p_data(1, 2, FAILED)
    )


def _delivered(path: Path) -> bytes:
    request, data_set = _instance(path)
    # Of the second context, whatever class that is of.
    sent = scripted.p_data(3, 3, request) + scripted.p_data(3, 2, data_set)
    return sent + scripted.p_data(1, 3, _response(command.C_GET_RQ, 0xFF00)) + sent + scripted.p_data(
        1, 3, _response(command.C_GET_RQ, 0)
    )  # fmt: skip


@pytest.mark.parametrize(("ask", "answer"), [(_find, _matches), (_move, _moved), (_get, _delivered)])
def test_damaged_answers_are_outcomes_or_one_error(
    ask: Callable[[RemoteAE, Path], object],
    answer: Callable[[Path], bytes],
    path: Path,
    tmp_path: Path,
    chance: random.Random,
) -> None:
    """Whatever a peer answers to a query or a retrieve is an outcome or an AssociationError; no partial file stays."""
    whole = answer(path)

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.sendall(_mutated(chance, whole))
        sock.shutdown(socket.SHUT_WR)
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        for _ in range(ROUNDS):
            try:
                ask(remote, tmp_path / "got")
            except AssociationError as error:
                assert str(remote) in error.message  # noqa: PT017 - it is one of two ends
    assert not list((tmp_path / "got").glob(".*"))


@pytest.mark.parametrize("content", [b"", bytes(100_000)])
def test_a_match_without_end_is_no_match(content: bytes) -> None:
    """A match that goes on for ever, and PDUs without content, end in an error instead of in all the memory."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.sendall(scripted.p_data(1, 3, _response(command.C_FIND_RQ, 0xFF00, True)))
        while True:
            sock.sendall(scripted.p_data(1, 0, content) if content else b"\4\0\0\0\0\0")

    with scripted.peer(script) as remote, pytest.raises(PeerUnavailableError, match=r"without end|empty"):
        find(FindRequest(remote=remote, level=Level.STUDY), LOCAL, PATIENT)


def test_unknown_items_of_a_negotiation_are_left_unanswered(path: Path, tmp_path: Path) -> None:
    """Extended negotiation and user identity are proposed by pynetdicom, beside operations; its calls are served."""
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 8
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CTImageStorage, b"\2\0\3\0\1\0"
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.positive_response_requested = 1, b"someone", True
    ae = AE("A_TITLE_OF_16_CH")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    with StorageSCP(LOCAL, "127.0.0.1", 0, tmp_path / "received") as scp:
        assoc = ae.associate(
            "127.0.0.1",
            scp.port,
            ext_neg=[window, extended, identity],
            ae_title="ANOTHER_TITLE_16",
            evt_handlers=callers.GUARDED,
        )
        assert assoc.is_established
        assert assoc.acceptor.asynchronous_operations == (8, 1), "of these, operations alone are answered"
        assert assoc.send_c_store(str(path)).Status == 0
        assoc.release()
        [kept] = scp.directory.rglob("*.dcm")
    assert dicom_files.data_set(kept) == dicom_files.data_set(path)
