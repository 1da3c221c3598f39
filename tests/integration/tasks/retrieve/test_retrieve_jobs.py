"""Queries and retrieves as jobs: received instances are compared with the list of the PACS."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from pacs_tasks import (
    Category,
    EchoRequest,
    FindOutcome,
    FindRequest,
    GetOutcome,
    GetRequest,
    InstanceCategory,
    JobFailedError,
    JobState,
    Level,
    MoveOutcome,
    MoveRequest,
    PacsClient,
    RetrieveMethod,
    RetrieveRequest,
    TransferOutcome,
    UnreadableInputError,
)
from pacs_tasks.testing import Faults, TestPACS
from tests.integration.conftest import Receiver
from tests.support import dicom_files
from tests.support.dicom_files import CHINESE_NAME, UID_ROOT, data_set, study_uid
from tests.support.waiting import wait_until

pytestmark = pytest.mark.holds((1, 1, 5), (1, 2, 3))


def retrieved(client: PacsClient, archive: TestPACS, directory: Path, **options: object) -> TransferOutcome:
    """Retrieve the study and give the outcome."""
    request = RetrieveRequest.model_validate(
        {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(directory), **options}
    )
    job = client.enqueue(request)
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def assert_complete(archive: TestPACS, directory: Path) -> None:
    """Every instance lies in its place, bit exact in its data set, and nothing else does."""
    found = {dcmread(path).SOPInstanceUID: path for path in directory.rglob("*") if path.is_file()}
    assert {str(uid): data_set(path) for uid, path in found.items()} == {
        uid: held.data_set for uid, held in archive.instances.items()
    }
    for uid, path in found.items():
        series = str(uid).rpartition(".")[0]
        assert path == directory / study_uid() / series / f"{uid}.dcm"


def test_c_move_brings_a_study_through_the_receiver(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path
) -> None:
    """The receiver's storage is empty afterwards."""
    outcome = retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.MOVE, move_aet=receiver.ae_title)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 8), outcome
    assert_complete(archive, tmp_path / "out")
    assert not list(receiver.incoming.rglob("*.dcm"))


def test_c_get_brings_a_study_without_a_receiver(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The instances come over the association of the request."""
    outcome = retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 8), outcome
    assert_complete(archive, tmp_path / "out")


def test_auto_takes_c_move_where_the_peer_knows_the_receiver(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path
) -> None:
    """The receiver knows the remote, so no C-GET is needed."""
    assert retrieved(client, archive, tmp_path / "out", move_aet=receiver.ae_title)
    assert_complete(archive, tmp_path / "out")
    assert archive.calling_aets.count(archive.ae_title) == 0
    assert not list(receiver.incoming.rglob("*.dcm"))


def test_auto_falls_back_to_c_get_where_the_peer_does_not_know_the_receiver(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path
) -> None:
    """A801: move destination unknown."""
    archive.destinations = {}
    assert retrieved(client, archive, tmp_path / "out", move_aet=receiver.ae_title)
    assert_complete(archive, tmp_path / "out")


def test_c_move_alone_tells_what_is_wrong_with_the_destination(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path
) -> None:
    """Each instance is missing by name, with the status."""
    archive.destinations = {}
    outcome = retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.MOVE, move_aet=receiver.ae_title)
    assert (outcome.category, outcome.counters.missing) == (Category.FAILED, 8)
    assert all("A801" in each.reason for each in outcome.problems)


def test_c_move_without_a_receiver_says_how_to_start_one(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The reason names the command."""
    outcome = retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.MOVE, move_aet="NOBODY")
    assert outcome.category is Category.FAILED
    assert {each.reason for each in outcome.problems} == {
        "No receiver NOBODY is running. Start one with `pacs-tasks receiver`."
    }


def test_one_series_comes_alone(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The other series of the study does not come."""
    outcome = retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.GET, series_uid=f"{study_uid()}.2")
    assert outcome.counters.total == outcome.counters.success == 3
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.dcm")} == {f"{study_uid()}.2"}


@pytest.mark.parametrize("method", [RetrieveMethod.MOVE, RetrieveMethod.GET])
@pytest.mark.parametrize("fault", ["lost", "unsent"])
def test_what_did_not_arrive_is_told_by_name(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path, method: RetrieveMethod, fault: str
) -> None:
    """Whether the remote reports the failure or claims success."""
    gone = [f"{UID_ROOT}.1.1.1000002", f"{UID_ROOT}.1.2.1000001"]
    archive.faults = Faults(lost=gone) if fault == "lost" else Faults(unsent=gone)
    outcome = retrieved(client, archive, tmp_path / "out", method=method, move_aet=receiver.ae_title)
    assert (outcome.category, bool(outcome), outcome.counters.success) == (Category.PARTIAL, False, 6)
    assert sorted(each.sop_instance_uid for each in outcome.problems) == sorted(gone)
    assert {each.category for each in outcome.problems} == {InstanceCategory.MISSING}


def test_a_retry_fetches_what_is_missing_and_nothing_else(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """The remote receives a request for their UIDs."""
    gone = [f"{UID_ROOT}.1.1.1000002", f"{UID_ROOT}.1.1.1000004"]
    archive.faults = Faults(unsent=gone)
    job = client.enqueue(
        RetrieveRequest(
            remote=archive.remote,
            study_uid=study_uid(),
            output_dir=str(tmp_path / "out"),
            method=RetrieveMethod.GET,
        )
    )
    job.wait(30)
    assert job.outcome().category is Category.PARTIAL
    archive.faults = Faults()
    asked = len(archive.identifiers)
    job.retry().wait(30)
    assert job.outcome().category is Category.SUCCESS
    assert [sorted(each.SOPInstanceUID) for each in archive.identifiers[asked:]] == [gone]
    assert_complete(archive, tmp_path / "out")


def test_two_jobs_for_one_study_do_not_take_each_others_files(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path
) -> None:
    """Both use C-MOVE through one receiver at once."""
    jobs = [
        client.enqueue(
            RetrieveRequest(
                remote=archive.remote,
                study_uid=study_uid(),
                output_dir=str(tmp_path / name),
                method=RetrieveMethod.MOVE,
                move_aet=receiver.ae_title,
            )
        )
        for name in ("one", "two")
    ]
    for job in jobs:
        job.wait(60)
        assert job.outcome().category is Category.SUCCESS, job.outcome()
    assert_complete(archive, tmp_path / "one")
    assert_complete(archive, tmp_path / "two")


def test_an_unknown_study_is_told(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The message names the remedy."""
    job = client.enqueue(RetrieveRequest(remote=archive.remote, study_uid="1.2.3", output_dir=str(tmp_path / "out")))
    job.wait(15)
    with pytest.raises(JobFailedError, match=r"lists no instance of this study\. Check the Study Instance UID"):
        job.outcome()


def test_a_directory_that_cannot_be_written_is_told(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The remote receives no request."""
    file = dicom_files.write_text(tmp_path / "file")
    job = client.enqueue(RetrieveRequest(remote=archive.remote, study_uid=study_uid(), output_dir=str(file / "below")))
    job.wait(15)
    with pytest.raises(UnreadableInputError, match="cannot write to the directory"):
        job.outcome()
    assert archive.associations == 0


def test_a_cancelled_retrieve_ends_soon(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """A C-GET ends in the middle; a retry fetches the rest."""
    archive.faults = Faults(hold_instances_after=2)
    job = client.enqueue(
        RetrieveRequest(
            remote=archive.remote, study_uid=study_uid(), output_dir=str(tmp_path / "out"), method=RetrieveMethod.GET
        )
    )
    wait_until(lambda: len(list((tmp_path / "out").rglob("*.dcm"))) >= 2, 30, "the first instances")
    job.cancel()
    assert job.wait(10).state is JobState.CANCELLED
    archive.faults = Faults()
    job.retry().wait(30)
    assert job.outcome().category is Category.SUCCESS
    assert_complete(archive, tmp_path / "out")


def test_a_plain_c_get_brings_its_instances(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The DIMSE operation has a task of its own."""
    job = client.enqueue(GetRequest(remote=archive.remote, output_dir=str(tmp_path / "out"), study_uid=study_uid()))
    job.wait(30)
    outcome = job.outcome()
    assert isinstance(outcome, GetOutcome)
    assert (outcome.category, len(outcome.instances), outcome.suboperations.completed) == (Category.SUCCESS, 8, 8)
    assert_complete(archive, tmp_path / "out")


def test_a_plain_c_move_delivers_to_another_pacs(client: PacsClient, archive: TestPACS) -> None:
    """The other PACS then holds the same instances."""
    with TestPACS(ae_title="OTHER") as other:
        archive.destinations = {"OTHER": ("127.0.0.1", other.port)}
        job = client.enqueue(MoveRequest(remote=archive.remote, move_aet="OTHER", study_uid=study_uid()))
        job.wait(30)
        outcome = job.outcome()
        assert isinstance(outcome, MoveOutcome)
        assert (outcome.category, outcome.suboperations.completed) == (Category.SUCCESS, 8)
        assert set(other.instances) == set(archive.instances)


def test_a_query_finds_chinese_names(client: PacsClient, archive: TestPACS) -> None:
    """The query uses the charset of the remote, the answer is Unicode."""
    remote = archive.remote.model_copy(update={"charset": "GB18030"})
    job = client.enqueue(FindRequest(remote=remote, keys={"PatientName": CHINESE_NAME}))
    job.wait(15)
    outcome = job.outcome()
    assert isinstance(outcome, FindOutcome)
    assert [match["00100010"]["Value"][0]["Alphabetic"] for match in outcome.matches] == [CHINESE_NAME]


def test_a_limit_stops_the_peer_and_is_told(client: PacsClient, archive: TestPACS) -> None:
    """The series has five."""
    keys = {"StudyInstanceUID": study_uid(), "SeriesInstanceUID": f"{study_uid()}.1"}
    for limit, hit in ((3, True), (5, False)):
        job = client.enqueue(FindRequest(remote=archive.remote, level=Level.IMAGE, keys=keys, limit=limit))
        job.wait(15)
        outcome = job.outcome()
        assert isinstance(outcome, FindOutcome)
        assert (outcome.category, len(outcome.matches), outcome.limit_hit) == (Category.SUCCESS, limit, hit)


def test_an_echo_is_answered(client: PacsClient, archive: TestPACS) -> None:
    """The outcome is a success."""
    job = client.enqueue(EchoRequest(remote=archive.remote))
    job.wait(15)
    assert job.outcome().category is Category.SUCCESS
