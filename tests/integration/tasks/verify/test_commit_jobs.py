"""Storage commitment as jobs: the receipts show what the PACS reports, over whichever association."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks import (
    AssociationRejectedError,
    Category,
    CommitmentState,
    CommitOutcome,
    CommitRequest,
    ContextRejectedError,
    Job,
    JobState,
    LocalAE,
    PacsClient,
    RemoteAE,
    StoreDirectoryRequest,
)
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.output.outcomes import view_of
from pacs_tasks.dimse.status import commitment_failure
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.ledger.commitments import Commitments, record_report
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.outcome.verification import CommitmentReport
from pacs_tasks.request import AnyRequest
from pacs_tasks.settings import load
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Report, TestPACS
from tests.support import peers, workers
from tests.support.dicom_files import write_series
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from workers.receiver.reception import Reports

COUNT = 6


@pytest.fixture(scope="module")
def place(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with a worker, in which only these tests announce receivers."""
    url = redis_process.fresh_url()
    with workers.worker(url, tmp_path_factory.mktemp("commit-worker")):
        yield url


@pytest.fixture
def port() -> int:
    """The port of the receiver, if there is one."""
    return free_port()


@pytest.fixture
def receiver(place: str, tmp_path: Path, port: int) -> Iterator[Process]:
    """A receiver of the same Redis as the worker, which has announced itself."""
    with workers.receiver(place, tmp_path, port) as running:
        yield running


@pytest.fixture
def client(place: str) -> Iterator[PacsClient]:
    """A client of that Redis."""
    with PacsClient(place) as running:
        yield running


@pytest.fixture
def archive(port: int) -> Iterator[TestPACS]:
    """A PACS that knows the receiver."""
    with TestPACS("ARCHIVE", destinations={"PACS_TASKS": ("127.0.0.1", port)}) as running:
        yield running


def _ended(client: PacsClient, request: AnyRequest) -> Job:
    job = client.enqueue(request)
    job.wait(90)
    return job


def sent(client: PacsClient, remote: RemoteAE, directory: Path, count: int = COUNT) -> Job:
    write_series(directory / "files", count)
    return _ended(client, StoreDirectoryRequest(remote=remote, directory=str(directory / "files")))


def committed(client: PacsClient, job: Job, patience: float = 20, **fields: Any) -> CommitOutcome:
    outcome = _ended(client, CommitRequest(job_id=job.id, patience=patience, **fields)).outcome()
    assert isinstance(outcome, CommitOutcome)
    return outcome


def states(job: Job) -> list[str]:
    """The commitment of each instance by its receipt."""
    return [receipt.commitment for receipt in job.receipts()]


def test_the_receiver_takes_the_report(
    client: PacsClient, receiver: Process, archive: TestPACS, tmp_path: Path
) -> None:
    """The PACS reports over its own association to the calling AE title; every instance is committed."""
    job = sent(client, archive.remote, tmp_path)
    outcome = committed(client, job)
    assert (outcome.committed, outcome.failed, outcome.pending) == (COUNT, 0, 0)
    assert (outcome.category, view_of(CommitRequest.task, outcome).exit_code) == (Category.SUCCESS, ExitCode.DONE)
    assert outcome.receiver.startswith("PACS_TASKS at 127.0.0.1:")
    assert archive.calling_aets[-1] == "PACS_TASKS"
    assert [set(each) for each in archive.transactions] == [set(archive.instances)]
    wait_until(lambda: archive.report_statuses, 5, "our answer")
    assert archive.report_statuses == [0x0000]
    for receipt in job.receipts():
        assert (receipt.commitment, receipt.commitment_peer) == ("committed", str(archive.remote))
        assert receipt.commitment_time > receipt.ended
    assert "6 instances committed" in receiver.said()
    assert str(tmp_path / "files") not in receiver.said()


def test_a_report_on_the_same_association_needs_no_receiver(client: PacsClient, tmp_path: Path) -> None:
    """The request has our own AE title then, and its association stays open for the report."""
    with TestPACS(faults=Faults(report=Report.SAME_ASSOCIATION)) as pacs:
        job = sent(client, pacs.remote, tmp_path)
        outcome = committed(client, job)
        assert (outcome.committed, outcome.receiver) == (COUNT, "")
        assert pacs.calling_aets[-1] == "PYNETDICOM"
    assert states(job) == ["committed"] * COUNT


def test_what_is_not_held_has_failed_by_name_and_with_its_reason(client: PacsClient, tmp_path: Path) -> None:
    """One instance was lost, the PACS has no room for another, and does not mention a third."""
    with TestPACS() as pacs:
        job = sent(client, pacs.remote, tmp_path)
        lost, busy, forgotten = sorted(pacs.instances)[:3]
        pacs.lose(lost)
        pacs.faults = Faults(report=Report.SAME_ASSOCIATION, uncommitted={busy: 0x0213}, unreported=[forgotten])
        outcome = committed(client, job)
    assert (outcome.committed, outcome.failed, outcome.pending) == (COUNT - 3, 3, 0)
    assert view_of(CommitRequest.task, outcome).exit_code is ExitCode.PARTIAL
    found = {each.sop_instance_uid: each for each in outcome.problems}
    assert found[lost].subject == str(tmp_path / "files" / "000001.dcm")
    assert "0112" in str(found[lost].status)
    assert "Resource Limitation" in str(found[busy].status)
    assert "does not name" in found[forgotten].reason
    assert states(job) == ["failed"] * 3 + ["committed"] * (COUNT - 3)


@pytest.mark.parametrize("status", [0x0110, 0x0213])
def test_a_refused_request_is_a_failure_of_each_instance(client: PacsClient, tmp_path: Path, status: int) -> None:
    """The PACS rejects the request at once."""
    with TestPACS(faults=Faults(action_status=status)) as pacs:
        job = sent(client, pacs.remote, tmp_path)
        outcome = committed(client, job)
    assert (outcome.committed, outcome.failed) == (0, COUNT)
    assert view_of(CommitRequest.task, outcome).exit_code is ExitCode.FAILED
    assert f"{status:04X}" in outcome.problems[0].reason


def test_without_a_report_it_is_not_yet(client: PacsClient, tmp_path: Path) -> None:
    """Instances are neither committed nor failed; the exit code is that of an unfinished job."""
    with TestPACS(faults=Faults(report=Report.NEVER)) as pacs:
        job = sent(client, pacs.remote, tmp_path)
        outcome = committed(client, job, patience=0.5)
    assert (outcome.committed, outcome.failed, outcome.pending) == (0, 0, COUNT)
    assert view_of(CommitRequest.task, outcome).exit_code is ExitCode.NOT_FINISHED
    assert states(job) == ["pending"] * COUNT


def test_a_report_that_comes_late_is_noted_all_the_same(
    client: PacsClient, receiver: Process, archive: TestPACS, tmp_path: Path
) -> None:
    """No job waits for it any more; the receipts show it."""
    job = sent(client, archive.remote, tmp_path)
    archive.faults = Faults(report=Report.HELD_BACK)
    outcome = committed(client, job, patience=0)
    assert outcome.pending == COUNT
    assert states(job) == ["pending"] * COUNT
    archive.faults = Faults()
    wait_until(lambda: states(job) == ["committed"] * COUNT, 10, f"the late report; {receiver.said()}")


def test_a_report_that_comes_twice_counts_once(
    client: PacsClient, receiver: Process, archive: TestPACS, tmp_path: Path
) -> None:
    """Both receive success: the PACS may repeat a report because our answer was lost."""
    job = sent(client, archive.remote, tmp_path)
    archive.faults = Faults(report_times=2)
    assert committed(client, job).committed == COUNT
    wait_until(lambda: len(archive.report_statuses) == 2, 10, f"the second report; {receiver.said()}")
    assert archive.report_statuses == [0x0000, 0x0000]
    assert states(job) == ["committed"] * COUNT


def test_a_report_about_a_foreign_transaction_changes_nothing(
    client: PacsClient, receiver: Process, archive: TestPACS, tmp_path: Path
) -> None:
    """It receives a failure status, and the instances stay pending."""
    job = sent(client, archive.remote, tmp_path)
    archive.faults = Faults(report_transaction_uid="2.25.1")
    assert committed(client, job, patience=1).pending == COUNT
    wait_until(lambda: archive.report_statuses == [0x0115], 10, f"our answer; {receiver.said()}")
    assert states(job) == ["pending"] * COUNT


def test_the_last_answer_stands(client: PacsClient, tmp_path: Path) -> None:
    """A PACS may answer a second request otherwise; a pending request does not withdraw an answer."""
    with TestPACS(faults=Faults(report=Report.SAME_ASSOCIATION, uncommitted={EVERY_INSTANCE: 0x0110})) as pacs:
        job = sent(client, pacs.remote, tmp_path)
        assert committed(client, job).failed == COUNT
        pacs.faults = Faults(report=Report.SAME_ASSOCIATION)
        assert committed(client, job).committed == COUNT
        pacs.faults = Faults(report=Report.NEVER)
        assert committed(client, job, patience=0.2).pending == COUNT
    assert states(job) == ["committed"] * COUNT


def test_warnings_are_committed_too_and_failures_not_asked_for(client: PacsClient, tmp_path: Path) -> None:
    """An instance with a warning was stored; a refused one is not part of the request."""
    refused = "2.25.314159265358979.1.1.1000003"
    faults = Faults(store_status={EVERY_INSTANCE: 0xB007, refused: 0xC000}, report=Report.SAME_ASSOCIATION)
    with TestPACS(faults=faults) as pacs:
        job = sent(client, pacs.remote, tmp_path)
        outcome = committed(client, job)
        assert (outcome.committed, outcome.total) == (COUNT - 1, COUNT - 1)
        assert refused not in pacs.transactions[0]
    assert states(job).count("") == 1


def test_many_instances_go_in_several_transactions(client: PacsClient, tmp_path: Path) -> None:
    """Each holds at most 500; the report on the first comes while the second is requested."""
    with TestPACS(faults=Faults(report=Report.SAME_ASSOCIATION)) as pacs:
        job = sent(client, pacs.remote, tmp_path, 501)
        assert committed(client, job).committed == 501
        assert [len(each) for each in pacs.transactions] == [500, 1]


def test_a_peer_without_the_service_is_an_error(client: PacsClient, storescp: peers.Directory, tmp_path: Path) -> None:
    """The message names the remedy."""
    job = sent(client, storescp.remote, tmp_path)
    with pytest.raises(ContextRejectedError, match="does not offer storage commitment"):
        committed(client, job)


def test_a_pacs_that_does_not_know_the_receiver_says_so(
    client: PacsClient, receiver: Process, archive: TestPACS, tmp_path: Path
) -> None:
    """It rejects the AE title of the receiver, which the request uses; the message gives the reason."""
    job = sent(client, archive.remote, tmp_path)
    archive.faults = Faults(calling_aets=["PYNETDICOM"])
    with pytest.raises(AssociationRejectedError, match="requested as PACS_TASKS, to which the PACS reports"):
        committed(client, job)


def test_waiting_for_reports_can_be_cancelled(client: PacsClient, tmp_path: Path) -> None:
    """A job with a long patience can be cancelled."""
    with TestPACS(faults=Faults(report=Report.NEVER)) as pacs:
        sending = sent(client, pacs.remote, tmp_path)
        job = client.enqueue(CommitRequest(job_id=sending.id, patience=600))
        wait_until(lambda: pacs.transactions, 10, "the request")
        job.cancel()
        assert job.wait(20).state is JobState.CANCELLED
        wait_until(lambda: pacs.open_associations == 0, 5, "the end of the association")


def test_two_reports_may_share_a_transaction(client: PacsClient, tmp_path: Path) -> None:
    """The Standard knows one report; a second one may name what the first did not."""
    with TestPACS(faults=Faults(report=Report.NEVER)) as pacs:
        job = sent(client, pacs.remote, tmp_path)
        known = sorted(pacs.instances)
    record = Commitments(client.ledger, job.id)
    (group,) = record.groups(500)
    record.begin("2.25.4", group.transaction("ARCHIVE"))
    assert record.record_report(
        CommitmentReport("2.25.4", frozenset(known[:2]), {known[2]: 0x0110}), commitment_failure
    )
    assert record.totals(["2.25.4"])[0][CommitmentState.FAILED] == COUNT - 2
    assert record.record_report(
        CommitmentReport("2.25.4", frozenset(known[2:]), {known[0]: 0x0110}), commitment_failure
    )
    assert states(job) == ["committed"] * 2 + ["failed"] + ["committed"] * (COUNT - 3)


def test_nothing_of_it_outlives_the_job(client: PacsClient, tmp_path: Path) -> None:
    """Every key of a job and its transactions expires with the job; each report prolongs them all."""
    with TestPACS(faults=Faults(report=Report.SAME_ASSOCIATION)) as pacs:
        job = sent(client, pacs.remote, tmp_path)
        assert committed(client, job).committed == COUNT
        redis = client.ledger.client
        keys = [key for key in redis.scan_iter("pacs_tasks:*") if job.id in key or ":commitment:" in key]
        # The mark of a planner that went on in the background, and claims, go sooner.
        keys = [key for key in keys if not key.endswith((":fanned", ":claims"))]
        assert any(":commitment:" in key for key in keys)
        assert {redis.ttl(key) > 600_000 for key in keys} == {True}
        record = Commitments(Ledger(redis, 60), job.id)
        (group,) = record.groups(500)
        record.begin("2.25.9", group.transaction("ARCHIVE"))
        kept = [key for key in keys if ":commitment:" not in key and not key.endswith(("claims", "losses"))]
        assert {redis.ttl(key) <= 60 for key in kept} == {True}
        assert redis.ttl("pacs_tasks:commitment:2.25.9") <= 60


def test_a_report_about_a_job_that_has_expired_is_refused(client: PacsClient, tmp_path: Path) -> None:
    """Neither the job nor its transaction is known."""
    with TestPACS(faults=Faults(report=Report.NEVER)) as pacs:
        job = sent(client, pacs.remote, tmp_path)
    record = Commitments(client.ledger, job.id)
    (group,) = record.groups(500)
    record.begin("2.25.5", group.transaction("ARCHIVE"))
    client.ledger.discard(job.id)
    assert not record_report(client.ledger, CommitmentReport("2.25.5", frozenset(), {}), commitment_failure)
    assert not record_report(client.ledger, CommitmentReport("2.25.6", frozenset(), {}), commitment_failure)


def test_a_receiver_without_its_redis_cannot_take_a_report() -> None:
    """It raises, so that the remote may report again."""
    reports = Reports(f"redis://127.0.0.1:{free_port()}/0", load(redis_timeout=0.5))
    with pytest.raises(BrokerUnavailableError):
        reports.record(CommitmentReport("2.25.5", frozenset(), {}))
    reports.close()


@pytest.mark.orthanc
def test_orthanc_reports_to_the_receiver(client: PacsClient, receiver: Process, port: int, tmp_path: Path) -> None:
    """Orthanc knows the receiver by DicomModalities; an instance that was deleted there fails."""
    with peers.orthanc(tmp_path, destinations={"PACS_TASKS": ("127.0.0.1", port)}) as orthanc:
        job = sent(client, orthanc.remote, tmp_path)
        outcome = committed(client, job)
        assert (outcome.committed, outcome.failed, outcome.pending) == (COUNT, 0, 0), receiver.said()
        uid, lost = sorted(orthanc.instances().items())[0]
        orthanc.delete(lost)
        outcome = committed(client, job)
        assert (outcome.committed, outcome.failed, outcome.pending) == (COUNT - 1, 1, 0), receiver.said()
        assert [each.sop_instance_uid for each in outcome.problems] == [uid]


def test_the_receiver_of_our_own_ae_title_is_preferred(
    client: PacsClient, place: str, archive: TestPACS, receiver: Process, tmp_path: Path
) -> None:
    """Several may run; the AE title of the request chooses the one that the PACS knows."""
    assert receiver.running()
    (tmp_path / "second").mkdir()
    other = free_port()
    with workers.receiver(place, tmp_path / "second", other, "WARD3"):
        archive.destinations["WARD3"] = ("127.0.0.1", other)
        job = sent(client, archive.remote, tmp_path)
        outcome = committed(client, job, local=LocalAE(ae_title="WARD3"))
        assert outcome.receiver == f"WARD3 at 127.0.0.1:{other}"
        assert outcome.committed == COUNT
