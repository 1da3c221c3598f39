"""PACS that offer the Patient Root model alone: found out by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from pacs_tasks import (
    Category,
    ContextRejectedError,
    FindRequest,
    Job,
    Level,
    PacsClient,
    RetrieveRequest,
    StoreDirectoryRequest,
    TransferOutcome,
    VerifyOutcome,
    VerifyRequest,
)
from pacs_tasks.request import AnyRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.integration.conftest import Receiver
from tests.support import peers
from tests.support.dicom_files import study_uid, write_series

STUDY_ROOT = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
PATIENT_ALONE = Faults(refused_sop_classes=STUDY_ROOT)
HELD = (1, 1, 3)


def _ended(client: PacsClient, request: AnyRequest) -> Job:
    job = client.enqueue(request)
    job.wait(60)
    return job


def _retrieved(client: PacsClient, **fields: object) -> TransferOutcome:
    outcome = _ended(client, RetrieveRequest.model_validate({"study_uid": study_uid(), **fields})).outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


@pytest.mark.holds(HELD, faults=PATIENT_ALONE)
@pytest.mark.parametrize("method", ["get", "move"])
def test_a_study_comes_with_the_patient_id(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path, method: str
) -> None:
    """C-MOVE and C-GET name the patient, as the model demands (PS3.4 section C.4.2.2.1)."""
    outcome = _retrieved(
        client, remote=archive.remote, output_dir=str(tmp_path / "out"), method=method, move_aet=receiver.ae_title
    )
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 3), outcome
    requests = [each for each in archive.identifiers if "SpecificCharacterSet" not in each]
    assert requests[-1].PatientID == next(iter(archive.instances.values())).header.PatientID


@pytest.mark.holds(HELD, faults=PATIENT_ALONE)
def test_queries_and_verification_use_it(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """At STUDY and SERIES level, and for what a job has sent; a named model is used alone."""
    for level in (Level.STUDY, Level.SERIES):
        query = FindRequest(remote=archive.remote, level=level, keys={"StudyInstanceUID": study_uid()})
        assert _ended(client, query).outcome().category is Category.SUCCESS
    write_series(tmp_path / "files", 3)
    sent = _ended(client, StoreDirectoryRequest(remote=archive.remote, directory=str(tmp_path / "files")))
    verified = _ended(client, VerifyRequest(job_id=sent.id)).outcome()
    assert isinstance(verified, VerifyOutcome)
    assert (verified.held, verified.total) == (3, 3)
    with pytest.raises(ContextRejectedError, match="in the Study Root model"):
        _ended(client, FindRequest.model_validate({"remote": archive.remote, "query_model": "study"})).outcome()
    named = _ended(client, VerifyRequest.model_validate({"job_id": sent.id, "query_model": "study"})).outcome()
    assert isinstance(named, VerifyOutcome)
    assert named.unknown == 3


@pytest.mark.holds(
    HELD,
    faults=Faults(
        refused_sop_classes=[StudyRootQueryRetrieveInformationModelFind, PatientRootQueryRetrieveInformationModelFind]
    ),
)
def test_no_queries_at_all_are_said(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """A retrieve names C-FIND as what is missing."""
    with pytest.raises(ContextRejectedError, match="does not offer C-FIND, in neither"):
        _retrieved(client, remote=archive.remote, output_dir=str(tmp_path / "out"))


@pytest.mark.dcmtk
def test_dcmqrscp_without_study_root(client: PacsClient, tmp_path: Path) -> None:
    """A real archive: sent, queried, verified and retrieved."""
    write_series(tmp_path / "files", 2)
    with peers.dcmqrscp(tmp_path, "DCMQRSCP", {}, "--no-study-root") as archive:
        sent = _ended(
            client,
            StoreDirectoryRequest(remote=archive.remote, directory=str(tmp_path / "files"), files_per_task=10),
        )
        verified = _ended(client, VerifyRequest(job_id=sent.id)).outcome()
        assert verified.category is Category.SUCCESS
        outcome = _retrieved(client, remote=archive.remote, output_dir=str(tmp_path / "out"))
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 2), outcome
