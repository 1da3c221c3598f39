"""What lies whole in the output directory already is not fetched again; an interrupted retrieve goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pacs_tasks.broker import connect
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger import Ledger
from pacs_tasks.outcome import Category, InstanceCategory, InstanceOutcome, TransferOutcome
from pacs_tasks.report import receipts_of
from pacs_tasks.request import RetrieveRequest
from tests.support.dicom_files import UID_ROOT, study_uid

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A ledger of this test's own."""
    client = connect(redis_url, 3)
    yield Ledger(client)
    client.close()


def _outcome(number: int, category: InstanceCategory) -> InstanceOutcome:
    return InstanceOutcome(
        subject=f"{UID_ROOT}.{number}",
        category=category,
        sop_class_uid=CT,
        sop_instance_uid=f"{UID_ROOT}.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=f"/out/{number}.dcm",
        size=100,
    )


def test_the_ledger_tells_what_was_there_from_what_was_received(ledger: Ledger) -> None:
    """Both are kept short and read back; only what was received counts as bytes; neither is a problem."""
    request = RetrieveRequest(study_uid=study_uid(), output_dir="/out")
    ledger.open("job", request.task, request)
    ledger.manifest.plan(
        "job", ([f"{UID_ROOT}.{number}", f"{UID_ROOT}.9", CT, study_uid()] for number in range(3)), "a"
    )
    ledger.record("job", 0, _outcome(0, InstanceCategory.PRESENT))
    ledger.record("job", 1, _outcome(1, InstanceCategory.SUCCESS))
    ledger.record("job", 2, _outcome(2, InstanceCategory.PRESENT))
    outcome = ledger.outcome("job")
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.category, outcome.problems, ledger.problems("job")) == (Category.SUCCESS, (), [])
    assert (outcome.counters.present, outcome.counters.success, outcome.counters.bytes) == (2, 1, 100)
    assert outcome.summary()["present"] == 2
    assert [each for _, each in sorted(ledger.outcomes("job"))] == [
        _outcome(0, InstanceCategory.PRESENT),
        _outcome(1, InstanceCategory.SUCCESS),
        _outcome(2, InstanceCategory.PRESENT),
    ]
    assert [each.category for each in receipts_of(ledger, "job")] == ["present", "success", "present"]


def test_a_retry_leaves_what_was_there(ledger: Ledger) -> None:
    """Only what failed or is missing is asked for again."""
    request = RetrieveRequest(study_uid=study_uid(), output_dir="/out")
    ledger.open("job", request.task, request)
    ledger.manifest.plan(
        "job", ([f"{UID_ROOT}.{number}", f"{UID_ROOT}.9", CT, study_uid()] for number in range(2)), "a"
    )
    ledger.record("job", 0, _outcome(0, InstanceCategory.PRESENT))
    ledger.record("job", 1, _outcome(1, InstanceCategory.MISSING))
    assert ledger.reopen("job") == 1
    assert ledger.recorded("job", 0, 2) == {0}
    ledger.record("job", 1, _outcome(1, InstanceCategory.PRESENT))
    with pytest.raises(InvalidRequestError, match="nothing in it failed"):
        ledger.reopen("job")
