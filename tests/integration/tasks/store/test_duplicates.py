"""Instances that a PACS rejects as duplicates (0111)."""

from __future__ import annotations

from pathlib import Path

import pytest
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from pacs_tasks import Category, InstanceCategory, PacsClient, StoreDirectoryRequest, TransferOutcome, VerifyRequest
from pacs_tasks.outcome import VerifyOutcome
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from tests.support.dicom_files import write_series

DUPLICATE = 0x0111


def _sent(client: PacsClient, pacs: TestPACS, directory: Path) -> tuple[str, TransferOutcome]:
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(directory)))
    job.wait(90)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return job.id, outcome


@pytest.mark.parametrize("queries", [True, False], ids=["confirmed", "no C-FIND"])
def test_duplicates_are_already_there(client: PacsClient, pacs: TestPACS, tmp_path: Path, queries: bool) -> None:
    """Two of three are there: the job is a success, `verify` includes them, and a remark says what is not confirmed."""
    paths = write_series(tmp_path, 3)
    pacs.hold(*paths[:2])
    held = list(pacs.instances)
    models = StudyRootQueryRetrieveInformationModelFind, PatientRootQueryRetrieveInformationModelFind
    refused = () if queries else models
    pacs.faults = Faults(store_status=dict.fromkeys(held, DUPLICATE), refused_sop_classes=refused)
    job_id, outcome = _sent(client, pacs, tmp_path)
    counters = outcome.counters
    assert (outcome.category, counters.success, counters.present) == (Category.SUCCESS, 1, 2)
    receipts = [each for each in client.job(job_id).receipts() if each.category == InstanceCategory.PRESENT]
    assert [each.sop_instance_uid for each in receipts] == held
    assert all(("could not be confirmed" in each.reason) is not queries for each in receipts)
    pacs.faults = Faults()
    verified = client.enqueue(VerifyRequest(job_id=job_id))
    verified.wait(90)
    found = verified.outcome()
    assert isinstance(found, VerifyOutcome)
    assert (found.held, found.total) == (3, 3)


def test_a_duplicate_that_is_not_listed_has_failed(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The PACS claims to hold all, and lists none: nothing is claimed."""
    write_series(tmp_path, 3)
    pacs.faults = Faults(store_status={EVERY_INSTANCE: DUPLICATE})
    _, outcome = _sent(client, pacs, tmp_path)
    assert (outcome.category, outcome.counters.failed) == (Category.FAILED, 3)
    assert all("does not list it" in each.reason for each in outcome.problems)


@pytest.mark.parametrize("status", [0x0107, 0x0116, 0xB007])
def test_warnings_are_stored(client: PacsClient, pacs: TestPACS, tmp_path: Path, status: int) -> None:
    """Attribute list error and attribute value out of range are warnings (PS3.7 section C.4)."""
    write_series(tmp_path, 1)
    pacs.faults = Faults(store_status={EVERY_INSTANCE: status})
    _, outcome = _sent(client, pacs, tmp_path)
    assert (outcome.category, outcome.counters.warning, len(pacs.instances)) == (Category.WARNING, 1, 1)
