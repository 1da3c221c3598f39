"""PACS that leave keys out of their answers, required ones too: nothing crashes, and nothing is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacs_tasks import (
    Category,
    FindRequest,
    Job,
    JobState,
    Level,
    PacsClient,
    PacsTasksError,
    RetrieveRequest,
    StoreDirectoryRequest,
    TransferOutcome,
    VerifyOutcome,
    VerifyRequest,
)
from pacs_tasks.request import AnyRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support.dicom_files import study_uid, write_series

HELD = (1, 1, 3)
OPTIONAL = ("SOPClassUID", "SeriesNumber", "StudyDate", "StudyTime", "Modality", "InstanceNumber", "PatientID",
            "QueryRetrieveLevel", "AccessionNumber", "ModalitiesInStudy")  # fmt: skip


def _ended(client: PacsClient, request: AnyRequest) -> Job:
    job = client.enqueue(request)
    job.wait(60)
    return job


def _retrieve(archive: TestPACS, directory: Path, **options: object) -> RetrieveRequest:
    fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(directory), "method": "get"}
    return RetrieveRequest.model_validate({**fields, **options})


@pytest.mark.holds(HELD, faults=Faults(omitted_keys=OPTIONAL, no_counts=True))
def test_a_study_comes_without_them(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """UIDs are enough to retrieve and to verify; queries show what there is."""
    for level in (Level.STUDY, Level.SERIES, Level.IMAGE):
        query = FindRequest(remote=archive.remote, level=level, keys={"StudyInstanceUID": study_uid()})
        assert _ended(client, query).outcome().category is Category.SUCCESS
    outcome = _ended(client, _retrieve(archive, tmp_path / "out")).outcome()
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 3), outcome


@pytest.mark.holds(HELD)
@pytest.mark.parametrize("key", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_unique_key_that_is_missing_ends_in_a_sentence(
    client: PacsClient, archive: TestPACS, tmp_path: Path, key: str
) -> None:
    """What the PACS does not name cannot be proven: the job ends with an outcome or an error of ours."""
    archive.faults = Faults(omitted_keys=[key])
    job = _ended(client, _retrieve(archive, tmp_path / "out"))
    if job.progress().state is JobState.FAILED:
        with pytest.raises(PacsTasksError, match="lists no"):
            job.outcome()
    else:
        counters = job.progress().counters
        assert counters.recorded == counters.total > 0


@pytest.mark.parametrize("missing", [0, 1], ids=["all held", "one lost"])
def test_matches_without_their_uid_prove_nothing(
    client: PacsClient, pacs: TestPACS, tmp_path: Path, missing: int
) -> None:
    """What a match may stand for is unknown; an instance for which no match comes is missing."""
    write_series(tmp_path, 3)
    sent = _ended(client, StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path)))
    # The first one is queried alone. Several associations send, so it need not be the first to arrive.
    pacs.lose(*sorted(pacs.instances)[:missing])
    pacs.faults = Faults(omitted_keys=["SOPInstanceUID"])
    verified = _ended(client, VerifyRequest(job_id=sent.id)).outcome()
    assert isinstance(verified, VerifyOutcome)
    assert (verified.held, verified.missing, verified.unknown) == (0, missing, 3 - missing)
    assert "without their SOP Instance UID" in verified.problems[-1].reason


def test_a_remote_that_hangs_up_at_a_list_is_asked_singly(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Its answers are cut off and it aborts at lists: each instance is found, and the lost one is missing."""
    write_series(tmp_path, 6)
    sent = _ended(client, StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path)))
    pacs.lose(sorted(pacs.instances)[5])
    pacs.faults = Faults(most_matches=2, abort_at_uid_lists=True)
    verified = _ended(client, VerifyRequest(job_id=sent.id)).outcome()
    assert isinstance(verified, VerifyOutcome)
    assert (verified.held, verified.missing, verified.unknown) == (5, 1, 0)
