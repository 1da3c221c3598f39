"""Verification of what a job has sent: an instance is held if the PACS lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import UID

from pacs_tasks import (
    Category,
    InstanceCategory,
    InvalidRequestError,
    Job,
    JobNotFoundError,
    JobState,
    LocalAE,
    PacsClient,
    PeerUnavailableError,
    PreflightRequest,
    RemoteAE,
    StoreDirectoryRequest,
    StoreRequest,
    VerifyOutcome,
    VerifyRequest,
)
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.output.outcomes import view_of
from pacs_tasks.operations import FIND_QUEUE
from pacs_tasks.request import AnyRequest
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Silence, TestPACS
from pacs_tasks.testing.faults import CALLING_AET_NOT_RECOGNISED
from tests.support import peers
from tests.support.dicom_files import instance, write, write_series
from tests.support.ports import free_port
from tests.support.service import another_service

#: More than one query by name takes.
MANY = 130


def _ended(client: PacsClient, request: AnyRequest) -> Job:
    job = client.enqueue(request)
    job.wait(90)
    return job


def sent(client: PacsClient, remote: RemoteAE, directory: Path) -> str:
    """Send a directory; return the id of the job."""
    return _ended(client, StoreDirectoryRequest(remote=remote, directory=str(directory))).id


def verified(client: PacsClient, job_id: str, **fields: Any) -> VerifyOutcome:
    outcome = _ended(client, VerifyRequest(job_id=job_id, **fields)).outcome()
    assert isinstance(outcome, VerifyOutcome)
    return outcome


def uids(pacs: TestPACS) -> list[str]:
    return sorted(pacs.instances)


def test_one_query_for_each_series_finds_everything(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Two series of one study and one of another: three queries, each with the keys of its level and no others."""
    for number, (study, series) in enumerate(((1, 1), (1, 2), (2, 3))):
        write_series(tmp_path / str(number), 4 + number, study=study, series=series)
    job_id = sent(client, pacs.remote, tmp_path)
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.missing, outcome.unknown) == (15, 0, 0)
    assert (outcome.category, view_of(VerifyRequest.task, outcome).exit_code) == (Category.SUCCESS, ExitCode.DONE)
    assert outcome.queries == len(pacs.identifiers) == 3
    for keys in pacs.identifiers:
        assert keys.QueryRetrieveLevel == "IMAGE"
        assert keys.StudyInstanceUID
        assert keys.SeriesInstanceUID
        assert len(keys) == 4
    assert client.job(job_id).outcome().category is Category.SUCCESS


def test_what_the_pacs_lost_is_missing_by_name(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The problems have SOP Instance UID and path, in the order of the manifest; Celery's result has counts only."""
    paths = write_series(tmp_path, 12)
    job_id = sent(client, pacs.remote, tmp_path)
    lost = [uids(pacs)[place] for place in (7, 2)]
    pacs.lose(*lost)
    job = _ended(client, VerifyRequest(job_id=job_id))
    outcome = job.outcome()
    assert isinstance(outcome, VerifyOutcome)
    assert (outcome.held, outcome.missing, outcome.unknown) == (10, 2, 0)
    assert [each.subject for each in outcome.problems] == [str(paths[2]), str(paths[7])]
    assert [each.sop_instance_uid for each in outcome.problems] == sorted(lost)
    assert {each.category for each in outcome.problems} == {InstanceCategory.MISSING}
    assert view_of(VerifyRequest.task, outcome).exit_code is ExitCode.PARTIAL
    told = str(outcome.summary())
    assert lost[0] not in told
    assert str(tmp_path) not in told


def test_nothing_held_is_a_failure(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """An archive lost everything: few queries show it, although no instance vouches for its answers."""
    write_series(tmp_path, MANY)
    job_id = sent(client, pacs.remote, tmp_path)
    pacs.lose(*uids(pacs))
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.missing, outcome.unknown) == (0, MANY, 0)
    assert view_of(VerifyRequest.task, outcome).exit_code is ExitCode.FAILED
    assert outcome.queries < MANY


def test_a_pacs_that_ends_its_answers_at_a_limit_is_asked_by_name(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """It ends its answers with success at a limit; queries by UID find the instances beyond."""
    write_series(tmp_path, MANY)
    job_id = sent(client, pacs.remote, tmp_path)
    lost = uids(pacs)[100]
    pacs.lose(lost)
    pacs.faults = Faults(most_matches=110)
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.missing) == (MANY - 1, 1)
    assert outcome.problems[0].sop_instance_uid == lost


@pytest.mark.parametrize("found_first", [0, 5])
def test_a_pacs_that_knows_no_lists_is_asked_one_by_one(
    client: PacsClient, pacs: TestPACS, tmp_path: Path, found_first: int
) -> None:
    """A list of UIDs matches nothing there, not even an instance that it listed before."""
    write_series(tmp_path, 30)
    job_id = sent(client, pacs.remote, tmp_path)
    lost = uids(pacs)[9]
    pacs.lose(lost)
    pacs.faults = Faults(refused_uid_lists=True, most_matches=found_first or None)
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.missing) == (29, 1)
    assert outcome.problems[0].sop_instance_uid == lost


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xA700, 0x0122])
def test_a_pacs_that_cannot_answer_at_this_level_is_unknown(
    client: PacsClient, pacs: TestPACS, tmp_path: Path, status: int
) -> None:
    """Its instances are unknown, and one query is enough to see it."""
    write_series(tmp_path, 40)
    job_id = sent(client, pacs.remote, tmp_path)
    pacs.faults = Faults(find_status=status)
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.missing, outcome.unknown) == (0, 0, 40)
    assert f"{status:04X}" in outcome.problems[0].reason
    assert view_of(VerifyRequest.task, outcome).exit_code is ExitCode.FAILED
    assert outcome.queries <= 3


def test_a_peer_without_queries_is_unknown(client: PacsClient, storescp: peers.Directory, tmp_path: Path) -> None:
    """DCMTK's storescp accepts every instance and no query."""
    write_series(tmp_path / "files", 3)
    outcome = verified(client, sent(client, storescp.remote, tmp_path / "files"))
    assert (outcome.held, outcome.missing, outcome.unknown) == (0, 0, 3)
    assert "does not offer C-FIND" in outcome.problems[0].reason


def test_a_pacs_that_falls_silent_in_the_middle_is_unknown(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """A series is given up after two losses."""
    write_series(tmp_path, 2)
    job_id = sent(client, pacs.remote, tmp_path)
    pacs.faults = Faults(silence=Silence.ASSOCIATED)
    outcome = verified(client, job_id, timeout=2)
    assert (outcome.held, outcome.missing, outcome.unknown) == (0, 0, 2)
    assert "stayed silent" in outcome.problems[0].reason


def test_a_pacs_that_is_gone_is_an_error(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Without an association the job ends with that error."""
    write_series(tmp_path, 2)
    job_id = sent(client, pacs.remote, tmp_path)
    job = _ended(client, VerifyRequest(job_id=job_id, remote=RemoteAE(port=free_port())))
    with pytest.raises(PeerUnavailableError):
        job.outcome()
    pacs.faults = Faults(rejection=CALLING_AET_NOT_RECOGNISED)
    job = _ended(client, VerifyRequest(job_id=job_id))
    assert job.state is JobState.FAILED


def test_stores_with_a_warning_are_asked_for_too(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """An instance with B000 is stored; a refused one was not sent and is not looked for."""
    write_series(tmp_path, 4)
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xB000})
    job_id = sent(client, pacs.remote, tmp_path)
    pacs.faults = Faults()
    pacs.lose(uids(pacs)[0])
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.missing, outcome.unknown) == (3, 1, 0)


def test_what_failed_is_not_asked_for(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The job itself reports it as not sent."""
    write_series(tmp_path, 4)
    pacs.faults = Faults(store_status={"2.25.314159265358979.1.1.1000002": 0xC000})
    job_id = sent(client, pacs.remote, tmp_path)
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.total) == (3, 3)


def test_an_instance_from_two_files_counts_twice(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Each sent file is held or missing."""
    (path,) = write_series(tmp_path, 1)
    (tmp_path / "copy.dcm").write_bytes(path.read_bytes())
    job_id = sent(client, pacs.remote, tmp_path)
    assert verified(client, job_id).held == 2
    pacs.lose(*uids(pacs))
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.missing, len(outcome.problems)) == (0, 2, 2)


def test_an_instance_without_a_study_is_held_if_listed_and_else_unknown(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """Colour palettes have none: a remote may list them only by other queries."""
    for number in (1, 2):
        ds = instance(number)
        del ds.StudyInstanceUID, ds.SeriesInstanceUID
        write(ds, tmp_path / f"{number}.dcm")
    job_id = sent(client, pacs.remote, tmp_path)
    pacs.lose(uids(pacs)[0])
    outcome = verified(client, job_id)
    assert (outcome.held, outcome.missing, outcome.unknown) == (1, 0, 1)
    assert "names no study" in outcome.problems[0].reason


def test_one_file_is_verified_as_well(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """It is a job of `send-file`, whose pixel data come from a memory map."""
    path = write(instance(1, rows=512), tmp_path / "large.dcm")
    job = _ended(client, StoreRequest(remote=pacs.remote, path=str(path)))
    outcome = verified(client, job.id)
    assert (outcome.held, outcome.queries) == (1, 1)
    assert pacs.identifiers[0].SOPInstanceUID == UID(uids(pacs)[0])


def test_another_pacs_can_be_asked(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """It should have received a copy; the calling AE title is that of the job unless the request has another."""
    write_series(tmp_path, 2)
    job = _ended(
        client,
        StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), local=LocalAE(ae_title="MODALITY7")),
    )
    with TestPACS("MIRROR") as mirror:
        outcome = verified(client, job.id, remote=mirror.remote)
        assert (outcome.held, outcome.missing) == (0, 2)
        assert mirror.calling_aets == ["MODALITY7"]


def test_a_service_names_the_job_alone(
    client: PacsClient, shared_redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """The PACS is that of the job; the result has the counts."""
    write_series(tmp_path, 2)
    job_id = sent(client, pacs.remote, tmp_path)
    with another_service(shared_redis_url) as app:
        result = app.send_task("pacs_tasks.verify", kwargs={"request": {"job_id": job_id}}, queue=FIND_QUEUE)
        summary = result.get(timeout=30)
        assert (summary["category"], summary["held"], summary["missing"]) == ("success", 2, 0)
        assert client.job(result.id).request().remote == pacs.remote
        result.forget()
        unknown = app.send_task("pacs_tasks.verify", kwargs={"request": {"job_id": "nothing"}}, queue=FIND_QUEUE)
        with pytest.raises(Exception, match="There is no job"):
            unknown.get(timeout=30)
        assert client.job(unknown.id).state is JobState.FAILED
        unknown.forget()


def test_only_what_sends_and_has_ended_can_be_verified(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Each other case has its own message."""
    with pytest.raises(JobNotFoundError):
        client.enqueue(VerifyRequest(job_id="nothing"))
    write_series(tmp_path, 2)
    job = _ended(client, PreflightRequest(remote=pacs.remote, directory=str(tmp_path)))
    with pytest.raises(InvalidRequestError, match="does not send"):
        _ended(client, VerifyRequest(job_id=job.id)).outcome()
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xC000})
    with pytest.raises(InvalidRequestError, match="has sent nothing"):
        _ended(client, VerifyRequest(job_id=sent(client, pacs.remote, tmp_path))).outcome()
    pacs.faults = Faults(silence=Silence.STORE)
    running = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path)))
    with pytest.raises(InvalidRequestError, match=r"still (queued|running)"):
        _ended(client, VerifyRequest(job_id=running.id)).outcome()
    running.cancel()
    running.wait(30)


def test_verifying_can_be_cancelled_and_retried(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Verification at a slow PACS can be cancelled, and retried under its id."""
    write_series(tmp_path, 20)
    job_id = sent(client, pacs.remote, tmp_path)
    pacs.faults = Faults(delay=0.5)
    job = client.enqueue(VerifyRequest(job_id=job_id))
    job.cancel()
    assert job.wait(30).state is JobState.CANCELLED
    pacs.faults = Faults()
    job.retry().wait(30)
    outcome = job.outcome()
    assert isinstance(outcome, VerifyOutcome)
    assert outcome.held == 20
