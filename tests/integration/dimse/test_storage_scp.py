"""Our Storage SCP, called by pynetdicom, DCMTK and misbehaving callers."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import VERIFICATION, echo
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import command, contexts
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import PeerBusyError, PeerUnavailableError
from pacs_tasks.outcome import Category, InstanceCategory, InstanceOutcome
from pacs_tasks.testing.association import Caller
from tests.support import callers, dicom_files, disk, scripted
from tests.support.sending import store
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")
RECEIVER = LocalAE(ae_title="RECEIVER")
PATIENT = Timeouts.of(20)
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"


@pytest.fixture
def told() -> list[InstanceOutcome]:
    """Collect the outcomes that the receiver reports."""
    return []


@pytest.fixture
def scp(tmp_path: Path, told: list[InstanceOutcome]) -> Iterator[StorageSCP]:
    """Run a Storage SCP with its files in ``received``."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", on_instance=told.append) as running:
        yield running


def _remote(scp: StorageSCP) -> RemoteAE:
    return RemoteAE(ae_title="RECEIVER", port=scp.port)


def _held(scp: StorageSCP) -> dict[str, bytes]:
    return {path.stem: dicom_files.data_set(path) for path in scp.directory.rglob("*.dcm")}


def _expected(files: list[Path]) -> dict[str, bytes]:
    return {part10.read_instance(str(path)).sop_instance_uid: dicom_files.data_set(path) for path in files}


def _send(scp: StorageSCP, files: list[Path]) -> list[InstanceOutcome]:
    outcomes = []
    for proposed, batch in contexts.contexts_for(part10.read_instance(str(path)) for path in files):
        with Association.open(LOCAL, _remote(scp), proposed, PATIENT) as assoc:
            outcomes += [store(assoc, instance) for instance in batch]
    return outcomes


def test_pynetdicom_echoes_and_stores(scp: StorageSCP, told: list[InstanceOutcome], tmp_path: Path) -> None:
    """pynetdicom gets responses; the file has the data set and names its sender."""
    ds = dicom_files.instance(rows=256)
    ae = Caller("MODALITY")
    ae.add_requested_context(VERIFICATION)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", scp.port, evt_handlers=callers.GUARDED)
    assert assoc.is_established
    assert assoc.send_c_echo().Status == 0
    assert assoc.send_c_store(ds).Status == 0
    assoc.release()
    [outcome] = told
    assert (outcome.category, outcome.sop_instance_uid) == (InstanceCategory.SUCCESS, str(ds.SOPInstanceUID))
    kept = dcmread(outcome.path)
    assert kept.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert kept.PixelData == ds.PixelData
    assert outcome.size == Path(outcome.path).stat().st_size


def test_echo_is_answered(scp: StorageSCP) -> None:
    """C-ECHO gets success."""
    assert echo(LOCAL, _remote(scp), PATIENT).category is Category.SUCCESS


def test_only_storage_and_echo_are_offered(scp: StorageSCP) -> None:
    """Query and retrieve are rejected; private classes and the first of several syntaxes are accepted."""
    proposed = [
        Context(STUDY_FIND, (ImplicitVRLittleEndian,)),
        Context(STUDY_MOVE, (ImplicitVRLittleEndian,)),
        Context(dicom_files.PRIVATE_SOP_CLASS, ("1.2.3.4",)),
        Context(CTImageStorage, ("1.2.840.10008.1.2.4.90", ExplicitVRLittleEndian)),
        Context("1.2.840.10008.5.1.4.1.1.4", (ImplicitVRLittleEndian, ExplicitVRLittleEndian)),
    ]
    with Association.open(LOCAL, _remote(scp), proposed, PATIENT) as assoc:
        assert set(assoc.accepted_contexts) == {
            (dicom_files.PRIVATE_SOP_CLASS, "1.2.3.4"),
            (CTImageStorage, "1.2.840.10008.1.2.4.90"),
            ("1.2.840.10008.5.1.4.1.1.4", ExplicitVRLittleEndian),
        }


def test_many_at_once_do_not_mix(scp: StorageSCP, tmp_path: Path) -> None:
    """Instances of eight simultaneous callers arrive unchanged."""
    series = [dicom_files.write_series(tmp_path / str(number), 20, series=number, rows=128) for number in range(1, 9)]
    threads = [threading.Thread(target=_send, args=(scp, files)) for files in series]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert _held(scp) == _expected([path for files in series for path in files])


def test_what_cannot_be_written_is_refused(
    scp: StorageSCP, told: list[InstanceOutcome], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its directory it responds A700 with a comment; the log reports that without patient data."""
    files = dicom_files.write_series(tmp_path / "files", 2)
    scp.directory.rmdir()
    with caplog.at_level(logging.DEBUG):
        outcomes = _send(scp, files)
    assert [outcome.status.code if outcome.status else 0 for outcome in outcomes] == [0xA700, 0xA700]
    assert all("cannot write" in outcome.reason for outcome in outcomes)
    assert [outcome.category for outcome in told] == [InstanceCategory.FAILED] * 2
    assert "A700" in caplog.text
    for private in ("P12345", dicom_files.study_uid(), str(tmp_path)):
        assert private not in caplog.text
    scp.directory.mkdir()
    assert all(outcome.category is InstanceCategory.SUCCESS for outcome in _send(scp, files))


@disk.needs_limits
def test_a_full_disk_is_said_to_be_full(scp: StorageSCP, tmp_path: Path) -> None:
    """An instance that does not fit gets A700, leaves no file and does not affect the next one."""
    [large] = dicom_files.write_series(tmp_path / "large", 1, rows=512)
    [small] = dicom_files.write_series(tmp_path / "small", 1, series=2, rows=2)
    with disk.full_at(100_000):
        refused, kept = _send(scp, [large, small])
    assert refused.status is not None
    assert refused.status.code == 0xA700
    assert kept.category is InstanceCategory.SUCCESS
    assert [path.stem for path in scp.directory.rglob("*") if path.is_file()] == [kept.sop_instance_uid]


def test_more_than_it_takes_are_asked_to_come_back(tmp_path: Path) -> None:
    """Above the limit a caller is rejected for now, and accepted after another has left."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", max_associations=1) as scp:
        first = Association.open(LOCAL, _remote(scp), [Context(VERIFICATION, (ImplicitVRLittleEndian,))], PATIENT)
        with pytest.raises(PeerBusyError, match="local limit exceeded"):
            echo(LOCAL, _remote(scp), PATIENT)
        first.release()

        def accepted() -> bool:
            try:
                return echo(LOCAL, _remote(scp), PATIENT).category is Category.SUCCESS
            except PeerBusyError:
                return False

        assert wait_until(accepted, 10, "the receiver to have room")


@pytest.mark.parametrize(
    "first", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\1\0\xff\xff\xff\xff", b"\1\0\0\0\0\4abcd", b"\4\0\0\0\0\4abcd"]
)
def test_a_caller_that_is_none_harms_nobody(scp: StorageSCP, first: bytes) -> None:
    """The receiver hangs up on garbage and serves the next caller."""
    with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock:
        sock.sendall(first)
        sock.shutdown(socket.SHUT_WR)
        scripted.wait_for_end(sock)
    assert echo(LOCAL, _remote(scp), PATIENT).category is Category.SUCCESS


def test_a_silent_caller_is_hung_up_on(tmp_path: Path) -> None:
    """Connections without a request and idle associations are closed after a time."""
    to_ask, to_go_on = Timeouts(connect=10, acse=0.5, dimse=20), Timeouts(connect=10, acse=20, dimse=0.5)
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received", to_ask) as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock,
    ):
        assert scripted.wait_for_end(sock)[:1] in {b"", b"\7"}
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", to_go_on) as scp:
        idle = Association.open(LOCAL, _remote(scp), [Context(VERIFICATION, (ImplicitVRLittleEndian,))], PATIENT)
        wait_until(lambda: not idle.reusable(), 10, "the receiver to hang up")
        idle.abort()


def _begin_to_store(port: int) -> tuple[socket.socket, bytes]:
    """Open an association and send half an instance; give the socket and the other half."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    proposed = (acse.ProposedContext(1, CTImageStorage, (ExplicitVRLittleEndian,)),)
    sock.sendall(acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", proposed)))
    assert scripted.receive_pdu(sock)[0] == 2
    elements: dict[int, int | str] = {
        command.AFFECTED_SOP_CLASS_UID: CTImageStorage,
        command.COMMAND_FIELD: command.C_STORE_RQ,
        command.MESSAGE_ID: 1,
        command.PRIORITY: 0,
        command.AFFECTED_SOP_INSTANCE_UID: "1.2.3",
    }
    sock.sendall(scripted.p_data(1, 3, command.encode(elements, data_set=True)) + scripted.p_data(1, 0, b""))
    return sock, scripted.p_data(
        1, 2, b"\x08\0\x18\0UI\x06\x001.2.3\0\x20\0\x0d\0UI\x04\x001.2\0\x20\0\x0e\0UI\x04\x001.3\0"
    )


def test_stopping_lets_a_message_finish(tmp_path: Path) -> None:
    """A stopping receiver finishes the instance under way and closes idle associations at once."""
    scp = StorageSCP("127.0.0.1", 0, tmp_path / "received")
    scp.start()
    idle = Association.open(LOCAL, _remote(scp), [Context(VERIFICATION, (ImplicitVRLittleEndian,))], PATIENT)
    sock, rest = _begin_to_store(scp.port)
    wait_until(lambda: list(scp.directory.glob(".*.part")), 10, "the instance to begin")
    stopping = threading.Thread(target=scp.stop, args=(20,))
    stopping.start()
    wait_until(lambda: not idle.reusable(), 10, "the idle association to end")
    idle.abort()
    with sock:
        sock.sendall(rest)
        assert command.decode(scripted.receive_pdu(sock)[1][6:]).number(command.STATUS) == 0
        stopping.join(10)
    assert not stopping.is_alive()
    assert (scp.directory / "1.2" / "1.3" / "1.2.3.dcm").is_file()
    with pytest.raises(PeerUnavailableError):
        echo(LOCAL, _remote(scp), PATIENT)


def test_stopping_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A caller that stalls in the middle of an instance is aborted in time, and no file is left."""
    scp = StorageSCP("127.0.0.1", 0, tmp_path / "received")
    scp.start()
    sock, _ = _begin_to_store(scp.port)
    with sock:
        wait_until(lambda: list(scp.directory.glob(".*.part")), 10, "the instance to begin")
        scp.stop(0.5)
        scripted.wait_for_end(sock)
    assert list(scp.directory.iterdir()) == []


def test_unknown_items_of_a_negotiation_are_left_unanswered(tmp_path: Path) -> None:
    """Extended negotiation and user identity are ignored, and the caller is served."""
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 8
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CTImageStorage, b"\2\0\3\0\1\0"
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.positive_response_requested = 1, b"someone", True
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    ae = Caller("A_TITLE_OF_16_CH")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    with StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp:
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
