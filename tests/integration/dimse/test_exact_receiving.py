"""Received instances are stored unchanged, from senders and archives of others, by C-STORE, C-MOVE and C-GET.

A tap reads the wire without our code. DCMTK's senders and archives decode and re-encode their files, so
they do not always send what their files contain; ``storescp``, which writes received bytes unchanged, is the second
witness there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pynetdicom import _config

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.retrieve.c_get import get
from pacs_tasks.dimse.retrieve.c_move import move
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import GetRequest, MoveRequest
from pacs_tasks.testing import StoredBytes, TestPACS
from pacs_tasks.testing.association import Caller
from tests.support import callers, dicom_files, peculiar, peers
from tests.support.processes import environment
from tests.support.sending import store
from tests.support.tap import tapped

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)
#: Options of DCMTK's ``storescu`` to send files in their own transfer syntax.
PROPOSALS = {
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}


@pytest.fixture
def told() -> list[InstanceOutcome]:
    """Collect the outcomes that the receiver reports."""
    return []


@pytest.fixture
def scp(tmp_path: Path, told: list[InstanceOutcome]) -> Iterator[StorageSCP]:
    """Run our Storage SCP with its files in ``received``."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", on_instance=told.append) as running:
        yield running


def _kept(directory: Path) -> dict[str, bytes]:
    """Give the stored data sets by the UID in the file name."""
    assert not list(directory.rglob("*.part")), "something was left behind"
    return {path.stem: dicom_files.data_set(path) for path in directory.rglob("*.dcm")}


def _sendable(some: Iterable[StoredInstance]) -> list[StoredInstance]:
    return [each for each in some if dicom_files.as_sent(each) is not None and dicom_files.names_itself(each)]


def _expected(instances: list[StoredInstance]) -> dict[str, bytes]:
    return {each.sop_instance_uid: dicom_files.as_sent(each) or b"" for each in instances}


def _check_files(told: list[InstanceOutcome]) -> None:
    """Check that the file meta information is right and that pydicom reads each file."""
    for each in told:
        if each.category is InstanceCategory.SUCCESS:
            meta = read_file_meta_info(each.path)
            assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == (
                each.sop_class_uid,
                each.sop_instance_uid,
                each.transfer_syntax_uid,
            )


def _fresh(scp: StorageSCP, told: list[InstanceOutcome]) -> None:
    told.clear()
    shutil.rmtree(scp.directory)
    scp.directory.mkdir()


def _dcmtk(command_line: list[str], port: int, instances: list[StoredInstance]) -> int:
    command = [*command_line, "127.0.0.1", str(port), *(each.path for each in instances)]
    return subprocess.run(
        command, capture_output=True, timeout=60, check=False, env=environment(TCP_NODELAY="1")
    ).returncode


@pytest.mark.dcmtk
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_dcmtks_senders(
    scp: StorageSCP, storescp: peers.Directory, told: list[InstanceOutcome], tmp_path: Path, program: str
) -> None:
    """In all twelve transfer syntaxes we store the same bytes as storescp, and it accepts no more files than we do."""
    unusual = tuple(peculiar.unusual(tmp_path / "files") + peculiar.at_the_edges(tmp_path / "files"))
    files = [each for some in (*dicom_files.rounds(), unusual) for each in _sendable(some) if _reads(each)]
    syntaxes, number, exact = set(), 0, 0
    with tapped(scp.port) as tap:
        for instances in _apart(files):
            syntax = instances[0].transfer_syntax_uid
            options = ["-nh", *(["-R", PROPOSALS[syntax]] if program == "storescu" else ["-dn", "+f"])]
            ours = _dcmtk([program, *options], tap.port, instances)
            assert ours == _dcmtk([program, *options], storescp.port, instances)
            sent = tap.sent()
            assert _kept(scp.directory) == sent
            theirs = {part10.read_instance(str(path)).sop_instance_uid: path for path in storescp.files()}
            assert {uid: dicom_files.data_set(path) for uid, path in theirs.items()}.items() <= sent.items()
            exact += sum(sent.get(uid) == content for uid, content in _expected(instances).items())
            number += len(sent)
            syntaxes |= {each.transfer_syntax_uid for each in told}
            _check_files(told)
            _fresh(scp, told)
            for path in storescp.files():
                path.unlink()
    # dcmsend prefers Explicit VR Little Endian to the other two uncompressed syntaxes.
    assert len(syntaxes) == (12 if program == "storescu" else 10)
    assert number > 150
    assert exact > 110


def _apart(instances: list[StoredInstance]) -> list[list[StoredInstance]]:
    """Group instances by transfer syntax so that each UID occurs once per group."""
    found: dict[tuple[str, int], list[StoredInstance]] = {}
    times: Counter[tuple[str, str]] = Counter()
    for each in instances:
        seen = (each.transfer_syntax_uid, each.sop_instance_uid)
        found.setdefault((each.transfer_syntax_uid, times[seen]), []).append(each)
        times[seen] += 1
    return list(found.values())


def _reads(instance: StoredInstance) -> bool:
    """Whether DCMTK reads the UIDs of a file; some are in Implicit VR although their syntax is explicit."""
    return Path(instance.path).name not in {"rtdose_rle.dcm", "rtdose_rle_1frame.dcm"}


def test_pynetdicom_sends(
    scp: StorageSCP, told: list[InstanceOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pynetdicom sends files unchanged, even with an odd number of bytes, and we store them unchanged."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    unusual = tuple(peculiar.unusual(tmp_path / "files") + peculiar.at_the_edges(tmp_path / "files"))
    number = 0
    with tapped(scp.port) as tap:
        for some in (*dicom_files.rounds(), unusual):
            instances = [each for each in some if _has_meta(each) and dicom_files.names_itself(each)]
            assert set(_send_by_pynetdicom(tap.port, instances)) <= {0x0000}
            expected = {each.sop_instance_uid: dicom_files.content(each) for each in instances}
            assert tap.sent() == expected == _kept(scp.directory)
            number += len(instances)
            _check_files(told)
            _fresh(scp, told)
    assert number > 170


def _has_meta(instance: StoredInstance) -> bool:
    """Whether pynetdicom can send it: it needs the UIDs and the length of the file meta information."""
    try:
        found = StoredBytes.from_file(Path(instance.path))
    except (InvalidDicomError, ValueError):
        return False
    return (found.sop_instance_uid, found.offset) == (instance.sop_instance_uid, instance.data_offset)


def _send_by_pynetdicom(port: int, instances: list[StoredInstance]) -> list[int]:
    pairs = list(dict.fromkeys((each.sop_class_uid, each.transfer_syntax_uid) for each in instances))
    ae = Caller("MODALITY")
    for pair in pairs:
        ae.add_requested_context(*pair)
    if not pairs:
        return []
    assoc = ae.associate("127.0.0.1", port, evt_handlers=callers.GUARDED)
    assert assoc.is_established
    try:
        return [assoc.send_c_store(each.path).Status for each in instances]
    finally:
        assoc.release()


def test_our_own_sender(scp: StorageSCP, told: list[InstanceOutcome], tmp_path: Path) -> None:
    """Our caller and receiver agree on every byte, even in tiny segments."""
    unusual = tuple(peculiar.unusual(tmp_path / "files") + peculiar.at_the_edges(tmp_path / "files"))
    for piece, some in ((1 << 18, (*dicom_files.rounds(), unusual)), (97, (unusual,))):
        with tapped(scp.port, piece) as tap:
            for instances in map(_sendable, some):
                assert _store(RemoteAE(port=tap.port), instances) == {InstanceCategory.SUCCESS}
                assert tap.sent() == _expected(instances) == _kept(scp.directory)
                _check_files(told)
                _fresh(scp, told)


def _store(remote: RemoteAE, instances: list[StoredInstance]) -> set[InstanceCategory]:
    found = set()
    for proposed, batch in contexts.contexts_for(instances):
        with Association.open(LOCAL, remote, proposed, PATIENT) as assoc:
            found |= {store(assoc, each).category for each in batch}
    return found


# Archives


def _studies(instances: list[StoredInstance]) -> dict[str, set[str]]:
    """Give the SOP classes of each study; four JPEG-LS near-lossless instances have no study."""
    found: dict[str, set[str]] = {}
    for each in instances:
        study = dicom_files.identity(each).get("StudyInstanceUID")
        if study:
            found.setdefault(str(study), set()).add(each.sop_class_uid)
    return found


Archive = Callable[..., AbstractContextManager[peers.Peer | TestPACS]]


def _testpacs(directory: Path, destinations: dict[str, tuple[str, int]]) -> TestPACS:
    return TestPACS(destinations=destinations)


@pytest.mark.parametrize(
    ("archive", "least"),
    [
        pytest.param(peers.orthanc, 11, marks=pytest.mark.orthanc, id="orthanc"),
        pytest.param(peers.dcmqrscp, 1, marks=pytest.mark.dcmtk, id="dcmqrscp"),
        pytest.param(_testpacs, 11, id="testpacs"),
    ],
)
def test_archives_deliver(
    scp: StorageSCP, told: list[InstanceOutcome], tmp_path: Path, archive: Archive, least: int
) -> None:
    """Each study arrives unchanged by C-MOVE and C-GET, with the same bytes by both."""
    got, syntaxes = tmp_path / "got", set()
    # Orthanc falls silent at these, and dcmqrscp aborts.
    never = {"SC_rgb_jpeg.dcm", "MR_truncated.dcm"}
    with (
        tapped(scp.port) as moving,
        archive(tmp_path, destinations={"RECEIVER": ("127.0.0.1", moving.port)}) as peer,
        tapped(peer.remote.port) as getting,
    ):
        for some in (*dicom_files.rounds(), tuple(peculiar.unusual(tmp_path / "files"))):
            instances = [each for each in _sendable(some) if Path(each.path).name not in never]
            _store(peer.remote, instances)
            for study, classes in _studies(instances).items():
                move(MoveRequest(remote=peer.remote, move_aet="RECEIVER", study_uid=study), LOCAL, PATIENT)
                request = GetRequest(remote=getting.to(peer.remote), output_dir=str(got), study_uid=study)
                outcome = get(request, LOCAL, PATIENT, sop_class_uids=classes)
                _check_files(list(outcome.instances))
                syntaxes |= {each.transfer_syntax_uid for each in outcome.instances}
            _check_files(told)
            moved, fetched = _kept(scp.directory), _kept(got)
            assert moving.sent() == moved
            assert getting.sent(answered=True) == fetched
            assert moved.keys() == fetched.keys()
            if isinstance(peer, TestPACS):
                assert moved.items() <= {uid: each.data_set for uid, each in peer.instances.items()}.items()
                assert moved == fetched
            _fresh(scp, told)
            shutil.rmtree(got, ignore_errors=True)
    assert len(syntaxes) >= least
