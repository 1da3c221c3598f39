"""C-MOVE into our Storage SCP, and C-GET, from TestPACS, Orthanc and dcmqrscp."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.retrieve.c_get import Reception, get
from pacs_tasks.dimse.retrieve.c_move import move
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import command, contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.errors import ContextRejectedError, InvalidRequestError, JobCancelledError, PeerUnavailableError
from pacs_tasks.outcome import Category, InstanceCategory, InstanceOutcome
from pacs_tasks.request import GetRequest, MoveRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, disk, peers, scripted
from tests.support.sending import store

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)
CT = "1.2.840.10008.5.1.4.1.1.2"
SERIES = f"{dicom_files.study_uid()}.1"
NUMBER = 5
Archive = Callable[..., AbstractContextManager[peers.Peer]]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[StorageSCP]:
    """Our Storage SCP, with its files in ``received``."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp:
        yield scp


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five instances of one series."""
    return dicom_files.write_series(tmp_path / "files", NUMBER, rows=256)


def _held(directory: Path) -> dict[str, bytes]:
    """The data set of every instance below a directory, by the name of its file."""
    assert not list(directory.rglob("*.part")), "something was left behind"
    return {path.stem: dicom_files.data_set(path) for path in directory.rglob("*.dcm")}


def _expected(files: list[Path]) -> dict[str, bytes]:
    return {part10.read_instance(str(path)).sop_instance_uid: dicom_files.data_set(path) for path in files}


def _fill(remote: RemoteAE, files: list[Path]) -> None:
    for proposed, batch in contexts.contexts_for(part10.read_instance(str(path)) for path in files):
        with Association.open(LOCAL, remote, proposed, PATIENT) as assoc:
            assert all(store(assoc, instance).category is InstanceCategory.SUCCESS for instance in batch)


def _get(remote: RemoteAE, directory: Path, series_uid: str | None = None, uids: tuple[str, ...] = ()) -> GetRequest:
    return GetRequest(
        remote=remote,
        output_dir=str(directory),
        study_uid=dicom_files.study_uid(),
        series_uid=series_uid,
        sop_instance_uids=uids,
    )


def _move(remote: RemoteAE, move_aet: str = "RECEIVER") -> MoveRequest:
    return MoveRequest(remote=remote, move_aet=move_aet, study_uid=dicom_files.study_uid())


def test_move_brings_a_study_to_our_receiver(files: list[Path], receiver: StorageSCP) -> None:
    """All instances arrive unchanged."""
    with TestPACS(instances=files, destinations={"RECEIVER": ("127.0.0.1", receiver.port)}) as pacs:
        outcome = move(_move(pacs.remote), LOCAL, PATIENT)
    assert (outcome.category, outcome.suboperations.completed) == (Category.SUCCESS, NUMBER)
    assert _held(receiver.directory) == _expected(files)


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(peers.orthanc, marks=pytest.mark.orthanc, id="orthanc"),
        pytest.param(peers.dcmqrscp, marks=pytest.mark.dcmtk, id="dcmqrscp"),
    ],
)
def test_real_archives_move_and_get(archive: Archive, tmp_path: Path, files: list[Path], receiver: StorageSCP) -> None:
    """Orthanc and DCMTK's archive deliver unchanged instances by C-MOVE and by C-GET."""
    with archive(tmp_path, destinations={"RECEIVER": ("127.0.0.1", receiver.port)}) as peer:
        _fill(peer.remote, files)
        moved = move(_move(peer.remote), LOCAL, PATIENT)
        got = get(_get(peer.remote, tmp_path / "got"), LOCAL, PATIENT, sop_class_uids=[CT])
        common = get(_get(peer.remote, tmp_path / "common"), LOCAL, PATIENT)
        [one] = get(
            _get(peer.remote, tmp_path / "one", SERIES, (f"{SERIES}.1000001",)), LOCAL, PATIENT, sop_class_uids=[CT]
        ).instances
    assert (moved.category, got.category, common.category) == (Category.SUCCESS,) * 3
    assert len(got.instances) == NUMBER
    assert _held(receiver.directory) == _expected(files)
    assert _held(tmp_path / "got") == _expected(files)
    assert _held(tmp_path / "common") == _expected(files)
    assert one.sop_instance_uid == f"{SERIES}.1000001"


def test_an_unknown_destination_is_an_answer_with_a_next_step(files: list[Path]) -> None:
    """A801 is an outcome that names the AE title and the next step."""
    with TestPACS(instances=files) as pacs:
        outcome = move(_move(pacs.remote, "NOBODY"), LOCAL, PATIENT)
    assert (outcome.status.code, outcome.category) == (0xA801, Category.FAILED)
    assert "'NOBODY'" in outcome.status.meaning
    assert "administrator" in outcome.status.meaning


def test_an_early_end_is_no_cancel(files: list[Path]) -> None:
    """FE00 without C-CANCEL is a failure."""
    with TestPACS(instances=files, faults=Faults(retrieve_status=0xFE00)) as pacs:
        outcome = move(_move(pacs.remote, "NOBODY"), LOCAL, PATIENT)
    assert (outcome.status.code, outcome.category) == (0xFE00, Category.FAILED)


def test_get_writes_what_comes_and_tells_each(files: list[Path], tmp_path: Path) -> None:
    """Each complete instance is reported; its file lies below study and series."""
    told: list[InstanceOutcome] = []
    with TestPACS(instances=files) as pacs:
        outcome = get(
            _get(pacs.remote, tmp_path / "got"), LOCAL, PATIENT, sop_class_uids=[CT], reception=Reception(told.append)
        )
    assert (outcome.category, outcome.suboperations.completed) == (Category.SUCCESS, NUMBER)
    assert list(outcome.instances) == told
    assert _held(tmp_path / "got") == _expected(files)
    for instance in told:
        assert Path(instance.path) == tmp_path / "got" / dicom_files.study_uid() / SERIES / f"{instance.subject}.dcm"
        assert instance.size == Path(instance.path).stat().st_size
        assert instance.sop_class_uid == CT


def test_what_the_peer_could_not_send_is_told(files: list[Path], tmp_path: Path) -> None:
    """Failed sub-operations are counted and listed, and the received instances are kept."""
    unsent = f"{SERIES}.1000002"
    with TestPACS(instances=files, faults=Faults(unsent=[unsent])) as pacs:
        outcome = get(_get(pacs.remote, tmp_path / "got"), LOCAL, PATIENT, sop_class_uids=[CT])
    assert outcome.category is Category.PARTIAL
    assert outcome.suboperations.failed == 1
    assert outcome.failed_sop_instance_uids == (unsent,)
    assert len(outcome.instances) == NUMBER - 1


@disk.needs_limits
def test_a_full_disk_refuses_the_instance_and_claims_nothing(files: list[Path], tmp_path: Path) -> None:
    """An instance that cannot be written gets A700, is not reported as received, and leaves no file."""
    with TestPACS(instances=files) as pacs, disk.full_at(100_000):
        outcome = get(_get(pacs.remote, tmp_path / "got"), LOCAL, PATIENT, sop_class_uids=[CT])
    assert (outcome.instances, outcome.suboperations.failed) == ((), NUMBER)
    assert outcome.category is Category.FAILED
    assert not [path for path in (tmp_path / "got").rglob("*") if path.is_file()]


def test_a_peer_without_get_is_told_apart(files: list[Path], tmp_path: Path) -> None:
    """C-GET that is not offered, or not for any SOP class, is an error that names the other method."""
    for refused in (["1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.1.3"], [CT]):
        with TestPACS(instances=files, faults=Faults(refused_sop_classes=refused)) as pacs:
            with pytest.raises(ContextRejectedError, match="--method move"):
                get(_get(pacs.remote, tmp_path / "got"), LOCAL, PATIENT, sop_class_uids=[CT])
            assert pacs.identifiers == []


def test_an_output_directory_that_cannot_be_made_costs_no_association(pacs: TestPACS, tmp_path: Path) -> None:
    """A file in the place of the directory is an error before any association."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequestError, match="output directory"):
        get(_get(pacs.remote, tmp_path / "file"), LOCAL, PATIENT)
    assert pacs.associations == 0


def _send_store(sock: socket.socket, context_id: int, uid: str, data_set: bytes, last: bool = True) -> None:
    elements: dict[int, int | str] = {
        command.AFFECTED_SOP_CLASS_UID: CT,
        command.COMMAND_FIELD: command.C_STORE_RQ,
        command.MESSAGE_ID: 9,
        command.PRIORITY: 0,
        command.AFFECTED_SOP_INSTANCE_UID: uid,
    }
    sock.sendall(scripted.p_data(context_id, 3, command.encode(elements, data_set=True)))
    sock.sendall(scripted.p_data(context_id, 2 if last else 0, data_set))


def _status(sock: socket.socket) -> int | None:
    """The status of our next response."""
    return command.decode(scripted.receive_pdu(sock)[1][6:]).number(command.STATUS)


def test_hostile_instances_are_refused_and_stay_outside(files: list[Path], tmp_path: Path) -> None:
    """A UID that leads out of the directory and a malformed data set get Cxxx; the retrieval continues.

    A data set of another instance than it is announced as is answered A900.
    """
    good, honest = dicom_files.data_set(files[0]), part10.read_instance(str(files[0])).sop_instance_uid
    said: list[int | None] = []

    def script(sock: socket.socket) -> None:
        request = scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        storage_id = next(cx.context_id for cx in request.contexts if "1.2.840.10008.1.2.1" in cx.transfer_syntaxes)
        for uid, data_set in (
            ("../../../evil", good),
            ("1.2.3", good.replace(dicom_files.study_uid().encode() + b"\0", b"../../../../../../../../../evil")),
            ("1.2.4", b"\xff" * 1000),
            ("1.2.5", good),
            (honest, good),
        ):
            _send_store(sock, storage_id, uid, data_set)
            said.append(_status(sock))
        elements: dict[int, int | str] = {
            command.COMMAND_FIELD: command.C_GET_RQ | command.RESPONSE,
            command.MESSAGE_ID_RESPONDED_TO: 1,
            command.STATUS: 0xB000,
            command.COMPLETED: 1,
            command.FAILED: 4,
        }
        sock.sendall(scripted.p_data(context_id, 3, command.encode(elements, data_set=False)))
        scripted.receive_pdu(sock)

    with scripted.peer(script) as remote:
        outcome = get(_get(remote, tmp_path / "deep" / "got"), LOCAL, PATIENT, sop_class_uids=[CT])
    assert said[0] == said[2] == 0xC000
    assert said[3:] == [0xA900, 0]
    assert outcome.category is Category.PARTIAL
    assert {each.sop_instance_uid for each in outcome.instances} == {honest}
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.rglob("*.part"))


def test_an_instance_that_breaks_off_is_not_there(tmp_path: Path, files: list[Path]) -> None:
    """If the association ends within an instance, no part of it stays on disk."""

    def script(sock: socket.socket) -> None:
        request = scripted.accept_all(sock)
        scripted.read_message(sock)
        storage_id = next(cx.context_id for cx in request.contexts if "1.2.840.10008.1.2.1" in cx.transfer_syntaxes)
        _send_store(sock, storage_id, "1.2.3", dicom_files.data_set(files[0])[:5000], last=False)

    told: list[InstanceOutcome] = []
    with scripted.peer(script) as remote, pytest.raises(PeerUnavailableError, match="rest of an instance"):
        get(_get(remote, tmp_path / "got"), LOCAL, PATIENT, sop_class_uids=[CT], reception=Reception(told.append))
    assert told == []
    assert not [path for path in (tmp_path / "got").rglob("*") if path.is_file()]


def test_a_cancelled_retrieval_keeps_what_came(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote that heeds C-CANCEL ends the retrieval with an outcome, one that ignores it with an error."""
    asked = count()
    monkeypatch.setattr("pacs_tasks.dimse.cancellation.FINAL_STATUS_LIMIT", 20.0)
    with TestPACS(instances=files, faults=Faults(delay=0.4)) as pacs:
        outcome = get(_get(pacs.remote, tmp_path / "got"), LOCAL, PATIENT, lambda: next(asked) > 1, [CT])
    assert outcome.category is Category.CANCELLED
    assert len(_held(tmp_path / "got")) == len(outcome.instances) < NUMBER

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.wait_for_end(sock)

    again = count()
    monkeypatch.setattr("pacs_tasks.dimse.cancellation.FINAL_STATUS_LIMIT", 0.2)
    with scripted.peer(script) as remote, pytest.raises(JobCancelledError):
        move(_move(remote), LOCAL, PATIENT, lambda: next(again) > 1)
