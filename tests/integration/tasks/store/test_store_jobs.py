"""Send jobs with a real Redis, real workers and a real PACS: the tests compare the PACS and the ledger."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage

from pacs_tasks import (
    AssociationRejectedError,
    Category,
    InvalidRequestError,
    JobState,
    NotDicomError,
    PacsClient,
    PeerUnavailableError,
    PreflightOutcome,
    PreflightRequest,
    RemoteAE,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
    TransferOutcome,
    UnreadableInputError,
)
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Silence, TestPACS
from pacs_tasks.testing.faults import CALLED_AET_NOT_RECOGNISED
from tests.support import dicom_files, ports, workers
from tests.support.dicom_files import UID_ROOT, data_set, sendable, write_series
from tests.support.waiting import wait_until


def sent(client: PacsClient, pacs: TestPACS, directory: Path, **options: int) -> TransferOutcome:
    """Send a directory and return its outcome."""
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(directory), **options))
    job.wait(90)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def even(encoded: bytes) -> bytes:
    """A deflated data set of odd length gets one null byte on the wire (PS3.5 section A.5); others are even."""
    return encoded + b"\0" * (len(encoded) % 2)


def test_every_class_and_syntax_arrives_bit_exact(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The PACS has the bytes of the files, whatever their names are."""
    files = {}
    for number, path in enumerate(sendable()):
        files[shutil.copy(path, tmp_path / f"no-ending-{number}")] = even(data_set(path))
    outcome = sent(client, pacs, tmp_path, send_damaged=True)
    assert outcome.category is Category.SUCCESS, outcome.problems
    assert outcome.counters.success == len(files) == len(pacs.instances)
    assert Counter(each.data_set for each in pacs.instances.values()) == Counter(files.values())
    assert len({each.transfer_syntax_uid for each in pacs.instances.values()}) > 8


def test_what_is_no_dicom_is_reported_and_not_sent(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """A text file, a DICOMDIR, an empty file; a broken link fails with its reason."""
    write_series(tmp_path / "a" / "b", 2)
    dicom_files.write_text(tmp_path / "text.dcm")
    (tmp_path / "empty.dcm").touch()
    shutil.copy(dicom_files.dicomdir(), tmp_path / "DICOMDIR")
    (tmp_path / "torn.dcm").symlink_to(tmp_path / "nowhere")
    outcome = sent(client, pacs, tmp_path)
    assert outcome.category is Category.PARTIAL
    assert (outcome.counters.success, outcome.counters.skipped, outcome.counters.failed) == (2, 3, 1)
    assert {Path(each.subject).name for each in outcome.problems} == {"text.dcm", "empty.dcm", "DICOMDIR", "torn.dcm"}
    assert all(each.reason for each in outcome.problems)
    assert len(pacs.stores) == 2


def test_a_refused_class_fails_its_own_files_only(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Each failure names the class."""
    write_series(tmp_path / "ct", 3)
    write_series(tmp_path / "mr", 2, series=2, sop_class_uid=MRImageStorage)
    pacs.faults = Faults(refused_sop_classes=[MRImageStorage])
    outcome = sent(client, pacs, tmp_path)
    assert (outcome.counters.success, outcome.counters.failed) == (3, 2)
    assert all("MR Image Storage" in each.reason and each.error == "ContextRejectedError" for each in outcome.problems)
    assert {each.sop_class_uid for each in pacs.instances.values()} == {CTImageStorage}


def test_a_private_class_is_sent_like_any_other(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """No list of known classes restricts a send."""
    write_series(tmp_path, 2, sop_class_uid=dicom_files.PRIVATE_SOP_CLASS)
    assert sent(client, pacs, tmp_path).category is Category.SUCCESS
    assert len(pacs.instances) == 2


def test_more_than_128_classes_go_over_several_associations(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """An association carries 128 presentation contexts (PS3.8 section 9.3.2.2)."""
    for number in range(140):
        instance = dicom_files.instance(number + 1, rows=2, sop_class_uid=f"{UID_ROOT}.9.{number}")
        dicom_files.write(instance, tmp_path / f"{number}.dcm")
    outcome = sent(client, pacs, tmp_path, files_per_task=140)
    assert (outcome.category, len(pacs.instances)) == (Category.SUCCESS, 140)
    assert pacs.associations == 3  # one of the planner, two to send


def test_a_permanent_status_fails_one_file_at_once(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The other files go on, and this one is sent once."""
    write_series(tmp_path, 5)
    bad = f"{UID_ROOT}.1.1.1000003"
    pacs.faults = Faults(store_status={bad: 0xC000})
    outcome = sent(client, pacs, tmp_path)
    assert (outcome.category, outcome.counters.success) == (Category.PARTIAL, 4)
    assert [each.sop_instance_uid for each in outcome.problems] == [bad]
    assert "C000" in outcome.problems[0].reason
    assert pacs.stores.count(bad) == 1


def test_a_warning_counts_as_sent_and_apart(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """B000: coercion of data elements (PS3.4 section B.2.3)."""
    write_series(tmp_path, 3)
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xB000})
    outcome = sent(client, pacs, tmp_path)
    assert outcome
    assert (outcome.category, outcome.counters.warning) == (Category.WARNING, 3)


def test_out_of_resources_is_waited_for(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """A700 twice, then success: each file has one outcome."""
    write_series(tmp_path, 3)
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA700}, store_status_times=2)
    outcome = sent(client, pacs, tmp_path, files_per_task=3)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 3)
    assert len(pacs.stores) == 9


def test_a_busy_peer_is_waited_for(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """ "Local limit exceeded" passes, and no file fails."""
    write_series(tmp_path, 3)
    pacs.faults = Faults(busy_associations=3)
    assert sent(client, pacs, tmp_path).category is Category.SUCCESS
    assert len(pacs.instances) == 3


def test_a_lost_association_loses_no_file(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The remote aborts in the middle; the rest goes over another association, and no outcome is recorded twice."""
    write_series(tmp_path, 30)
    pacs.faults = Faults(abort_at_store=12)
    outcome = sent(client, pacs, tmp_path, files_per_task=30)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 30)
    assert len(pacs.instances) == 30


@pytest.mark.thorough
def test_a_file_that_silences_the_peer_fails_alone(client: PacsClient, tmp_path: Path) -> None:
    """It is tried once more, between two C-ECHO that the remote answers, so it does not count as unreachable."""
    (poison,) = write_series(tmp_path / "files", 1)
    with TestPACS(faults=Faults(silence=Silence.STORE)) as pacs:
        job = client.enqueue(StoreRequest(remote=pacs.remote, path=str(poison), timeout=2))
        job.wait(30)
        outcome = job.outcome()
        assert isinstance(outcome, TransferOutcome)
        assert (outcome.category, outcome.unreachable, pacs.associations) == (Category.FAILED, False, 4)
        assert "within 2 s" in outcome.problems[0].reason


@pytest.mark.thorough
def test_a_peer_that_is_silent_for_a_while_is_not_the_files_fault(client: PacsClient, tmp_path: Path) -> None:
    """While it answers no C-ECHO either, the file is not sent again."""
    (path,) = write_series(tmp_path / "files", 1)
    with TestPACS(faults=Faults(silence=Silence.ASSOCIATED)) as pacs:
        job = client.enqueue(StoreRequest(remote=pacs.remote, path=str(path), timeout=1))
        wait_until(lambda: pacs.associations >= 4, 30, "the file was sent, and three C-ECHO")
        pacs.faults = Faults()
        job.wait(30)
        assert job.progress().counters.success == len(pacs.instances) == 1


@pytest.mark.parametrize("share", [1, 12])
def test_a_file_at_which_the_peer_aborts_fails_alone(
    client: PacsClient, pacs: TestPACS, tmp_path: Path, share: int
) -> None:
    """It is sent once more, alone; the other files, of its part too, pass meanwhile."""
    write_series(tmp_path, 12)
    disliked = f"{UID_ROOT}.1.1.1000001"
    pacs.faults = Faults(abort_at_instances=[disliked])
    outcome = sent(client, pacs, tmp_path, files_per_task=share)
    assert (outcome.category, outcome.counters.success, outcome.unreachable) == (Category.PARTIAL, 11, False)
    [problem] = outcome.problems
    assert (problem.error, "ended the association at this file" in problem.reason) == ("PeerStalledError", True)
    assert pacs.stores.count(disliked) == 2
    assert len(set(pacs.stores)) == 12


def test_a_peer_that_aborts_at_each_file_is_reached(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """It answers, so that it is the files, or it, that fail: exit code 1, not 4."""
    uids = [f"{UID_ROOT}.1.1.{number}" for number in range(1_000_001, 1_000_011)]
    write_series(tmp_path, len(uids))
    pacs.faults = Faults(abort_at_instances=uids)
    for share in (1, 10):
        outcome = sent(client, pacs, tmp_path, files_per_task=share)
        assert (outcome.category, outcome.counters.failed, outcome.unreachable) == (Category.FAILED, 10, False)
        assert {each.error for each in outcome.problems} == {"PeerStalledError"}


@pytest.mark.thorough
def test_associations_are_reused(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """One task per file needs one association for the planner and one for each worker process: here, one."""
    write_series(tmp_path / "files", 60)
    one = {"PACS_TASKS_ASSOCIATIONS_PER_PROCESS": "1", "PACS_TASKS_ASSOCIATION_IDLE": "5"}
    with (
        workers.worker(redis_url, tmp_path, concurrency=1, **one),
        PacsClient(redis_url) as own,
    ):
        outcome = sent(own, pacs, tmp_path / "files")
        assert outcome.counters.success == 60
        assert pacs.associations == 2
        wait_until(lambda: pacs.open_associations == 0, 10, "idle associations are released")


def test_a_silent_peer_holds_no_worker_for_ever(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """It accepts the connection and sends nothing: the job fails within the timeout."""
    write_series(tmp_path, 2)
    pacs.faults = Faults(silence=Silence.CONNECTED)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), timeout=1))
    job.wait(15)
    with pytest.raises(PeerUnavailableError, match="within 1 s"):
        job.outcome()


def test_a_peer_that_is_not_there_is_told_before_anything_is_planned(client: PacsClient, tmp_path: Path) -> None:
    """The error names what to check."""
    write_series(tmp_path, 2)
    remote = RemoteAE(port=ports.free_port())
    for request in (
        StoreDirectoryRequest(remote=remote, directory=str(tmp_path)),
        StoreRequest(remote=remote, path=str(tmp_path / "000001.dcm")),
    ):
        job = client.enqueue(request)
        job.wait(15)
        with pytest.raises(PeerUnavailableError, match="Check the IP address and port"):
            job.outcome()


def test_a_wrong_ae_title_is_told(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The error names the option to check."""
    write_series(tmp_path, 1)
    pacs.faults = Faults(rejection=CALLED_AET_NOT_RECOGNISED)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path)))
    job.wait(15)
    with pytest.raises(AssociationRejectedError, match="--pacs-ae-title"):
        job.outcome()


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("nothing", UnreadableInputError, "cannot find the"),
        ("empty", UnreadableInputError, "directory contains no file"),
        ("text.dcm", UnreadableInputError, "not a directory"),
    ],
)
def test_a_directory_that_the_worker_cannot_use_is_told(
    client: PacsClient, pacs: TestPACS, tmp_path: Path, name: str, error: type[Exception], said: str
) -> None:
    """The error names the path and the worker."""
    (tmp_path / "empty").mkdir()
    dicom_files.write_text(tmp_path / "text.dcm")
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / name)))
    job.wait(15)
    with pytest.raises(error, match=said) as raised:
        job.outcome()
    assert str(tmp_path / name) in str(raised.value)
    assert pacs.associations == 0


def test_one_file_is_sent_or_told(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """A DICOM file, a text file, and no file."""
    (path,) = write_series(tmp_path, 1)
    job = client.enqueue(StoreRequest(remote=pacs.remote, path=str(path)))
    job.wait(15)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert (bool(outcome), outcome.counters.total, len(pacs.instances)) == (True, 1, 1)
    for wrong, error in ((dicom_files.write_text(tmp_path / "t.dcm"), NotDicomError), (tmp_path, UnreadableInputError)):
        job = client.enqueue(StoreRequest(remote=pacs.remote, path=str(wrong)))
        job.wait(15)
        with pytest.raises(error):
            job.outcome()


def test_a_cancelled_job_stops_and_a_retry_sends_the_rest(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """No file goes twice."""
    write_series(tmp_path, 400, rows=2)
    pacs.faults = Faults(hold_instances_after=24)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path)))
    wait_until(lambda: job.progress().counters.success >= 20, 30, "20 files sent")
    job.cancel()
    pacs.faults = Faults()
    assert job.wait(5).state is JobState.CANCELLED
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    first = outcome.counters.success
    assert (outcome.category, first == len(pacs.stores)) == (Category.CANCELLED, True)
    assert 20 <= first < 400
    pacs.faults = Faults()
    job.retry().wait(60)
    assert job.outcome().category is Category.SUCCESS
    assert (len(pacs.stores), len(pacs.instances)) == (400, 400)


def test_a_retry_sends_what_failed_and_nothing_else(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """A second retry is refused, because nothing is left."""
    write_series(tmp_path, 20)
    bad = [f"{UID_ROOT}.1.1.{number}" for number in (1000004, 1000017)]
    pacs.faults = Faults(store_status=dict.fromkeys(bad, 0xC001))
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path)))
    job.wait(30)
    assert job.outcome().category is Category.PARTIAL
    pacs.faults = Faults()
    offered = len(pacs.stores)
    job.retry().wait(30)
    assert job.outcome().category is Category.SUCCESS
    assert sorted(pacs.stores[offered:]) == bad
    with pytest.raises(InvalidRequestError, match="nothing to retry"):
        job.retry()


def test_a_preflight_sends_nothing_and_tells_all(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """It reports counts, classes, syntaxes, files that are not DICOM, and the contexts that the remote accepts."""
    write_series(tmp_path / "ct", 3)
    write_series(tmp_path / "mr", 2, series=2, sop_class_uid=MRImageStorage)
    dicom_files.write_text(tmp_path / "text.dcm")
    pacs.faults = Faults(refused_sop_classes=[MRImageStorage])
    job = client.enqueue(PreflightRequest(remote=pacs.remote, directory=str(tmp_path)))
    job.wait(15)
    outcome = job.outcome()
    assert isinstance(outcome, PreflightOutcome)
    assert {(pair.sop_class_name, pair.count, pair.accepted) for pair in outcome.pairs} == {
        ("CT Image Storage", 3, True),
        ("MR Image Storage", 2, False),
    }
    assert (outcome.total, outcome.contexts, outcome.associations, len(outcome.skipped)) == (6, 4, 1, 1)
    assert pacs.stores == []


def unpacked() -> set[Path]:
    """Where workers unpack."""
    return set(Path(tempfile.gettempdir()).glob("pacs-tasks-unpacked-*"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_files_directories_and_archives_are_one_job(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Each file is sent once, however it is named; the members of an archive have its path in their outcomes."""
    directory, lone, *packed = write_series(tmp_path / "made", 6)
    (tmp_path / "directory").mkdir()
    with zipfile.ZipFile(tmp_path / "directory/inner.zip", "w") as file:
        file.write(lone, "1.dcm")
    directory = directory.rename(tmp_path / "directory/a")
    lone = lone.rename(tmp_path / "lone")
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("read me.txt", "no DICOM")
        file.write(tmp_path / "directory/inner.zip", "inner")
        for each in packed:
            file.write(each, "IM/same name")
    paths = map(str, (tmp_path / "directory", lone, archive, directory, lone))
    expected = Counter(data_set(each) for each in (directory, lone, *packed))
    before = unpacked()
    job = client.enqueue(StorePathsRequest(remote=pacs.remote, paths=tuple(paths)))
    job.wait(90)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.counters.success, outcome.counters.skipped, outcome.counters.total) == (6, 3, 9)
    assert "Name it in `pacs-tasks send`" in outcome.problems[0].reason
    assert any("is an archive in an archive" in each.reason for each in outcome.problems)
    assert Counter(each.data_set for each in pacs.instances.values()) == expected
    names = ["read me.txt", "inner", *["IM/same name"] * 4]
    assert [each.path for each in job.receipts()][3:] == [f"{archive}/{name}" for name in names]
    # The last part ends the job, and then itself.
    wait_until(lambda: not (unpacked() - before), 20, "the end of the last part")


def test_an_archive_that_is_cut_off_stops_the_job_before_anything_is_sent(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """Nobody could tell which files it lacks."""
    (path,) = write_series(tmp_path / "made", 1)
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "1")
    archive.write_bytes(archive.read_bytes()[:-30])
    job = client.enqueue(StorePathsRequest(remote=pacs.remote, paths=(str(path), str(archive))))
    assert job.wait(90).state is JobState.FAILED
    with pytest.raises(UnreadableInputError, match="not whole"):
        job.outcome()
    assert not pacs.instances
