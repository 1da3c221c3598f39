"""Requests about another job, and what their outcomes say of themselves."""

from __future__ import annotations

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.outcome import Category, InstanceCategory, InstanceOutcome
from pacs_tasks.outcome.verification import CommitOutcome, VerifyOutcome
from pacs_tasks.request import CommitRequest, StoreDirectoryRequest, VerifyRequest, build

OTHER = StoreDirectoryRequest(
    directory="/data", remote=RemoteAE(ae_title="ARCHIVE"), local=LocalAE(ae_title="US"), timeout=5
)


def test_what_a_request_leaves_out_is_as_the_job_had_it() -> None:
    """Each field by itself."""
    assert VerifyRequest(job_id="j").about(OTHER) == VerifyRequest(
        job_id="j", remote=OTHER.remote, local=OTHER.local, timeout=5
    )
    elsewhere = RemoteAE(host="10.0.0.1")
    found = CommitRequest(job_id="j", remote=elsewhere, patience=3).about(OTHER)
    assert (found.remote, found.local, found.timeout, found.patience) == (elsewhere, OTHER.local, 5, 3)


def test_a_default_that_is_given_stays() -> None:
    """Whoever names the default peer means it, also when the request comes as plain values."""
    assert build(VerifyRequest, {"job_id": "j", "remote": {}}).about(OTHER).remote == RemoteAE()
    assert build(VerifyRequest, {"job_id": "j", "timeout": None}).about(OTHER).timeout is None


@pytest.mark.parametrize("fields", [{}, {"job_id": ""}, {"job_id": "j", "patience": -1}])
def test_a_wrong_request_is_refused(fields: dict[str, object]) -> None:
    """Before anything is opened."""
    with pytest.raises(InvalidRequestError):
        build(CommitRequest, fields)


@pytest.mark.parametrize(
    ("outcome", "category"),
    [
        (VerifyOutcome(held=3), Category.SUCCESS),
        (VerifyOutcome(held=2, missing=1), Category.PARTIAL),
        (VerifyOutcome(held=2, unknown=1), Category.PARTIAL),
        (VerifyOutcome(missing=1, unknown=1), Category.FAILED),
        (CommitOutcome(committed=3), Category.SUCCESS),
        (CommitOutcome(committed=2, failed=1), Category.PARTIAL),
        (CommitOutcome(committed=2, pending=1), Category.PARTIAL),
        (CommitOutcome(pending=3), Category.PARTIAL),
        (CommitOutcome(failed=3), Category.FAILED),
    ],
)
def test_only_all_is_success(outcome: VerifyOutcome | CommitOutcome, category: Category) -> None:
    """What is unknown or open is not counted as good."""
    assert outcome.category is category


def test_names_stay_out_of_a_summary() -> None:
    """Celery's result, Flower and logs get counts."""
    problem = InstanceOutcome(subject="/data/Secret^Patient.dcm", category=InstanceCategory.MISSING)
    for outcome in (VerifyOutcome(missing=1, problems=(problem,)), CommitOutcome(failed=1, problems=(problem,))):
        assert "Secret" not in str(outcome.summary())
        assert "Secret" in outcome.model_dump_json()
