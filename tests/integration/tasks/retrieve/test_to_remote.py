"""From one PACS straight to another: an instance counts when the destination lists it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.client import PacsClient
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.outcome import Category, InstanceCategory, JobState, TransferOutcome
from pacs_tasks.request import RetrieveRequest, build
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from tests.support import ports
from tests.support.dicom_files import study_uid, write_series
from tests.support.waiting import wait_until

HELD = 8


@pytest.fixture
def destination() -> Iterator[TestPACS]:
    """An empty PACS."""
    with TestPACS(ae_title="DEST") as running:
        yield running


@pytest.fixture
def source(tmp_path: Path, destination: TestPACS) -> Iterator[TestPACS]:
    """A PACS with a study of two series, 5 and 3 instances, which knows the destination."""
    held = [*write_series(tmp_path / "held/1", 5), *write_series(tmp_path / "held/2", 3, series=2)]
    known = {"DEST": ("127.0.0.1", destination.port)}
    with TestPACS(ae_title="SOURCE", instances=held, destinations=known) as running:
        yield running


def _forwarded(client: PacsClient, source: TestPACS, to: RemoteAE, **options: object) -> TransferOutcome:
    request = RetrieveRequest.model_validate({"remote": source.remote, "study_uid": study_uid(), "to": to, **options})
    job = client.enqueue(request)
    job.wait(90)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert outcome.counters.total == outcome.counters.recorded == HELD
    return outcome


def _assert_same(source: TestPACS, destination: TestPACS) -> None:
    assert {uid: each.data_set for uid, each in destination.instances.items()} == {
        uid: each.data_set for uid, each in source.instances.items()
    }


def test_a_study_goes_straight_to_another_pacs(client: PacsClient, source: TestPACS, destination: TestPACS) -> None:
    """No instance passes through here, and the destination lists each."""
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, HELD)
    _assert_same(source, destination)
    assert [study.ways for study in outcome.studies] == [("C-MOVE",)]


def test_what_the_destination_holds_is_not_sent_again(
    client: PacsClient, source: TestPACS, destination: TestPACS
) -> None:
    """Only the rest is requested, by UID; with overwrite everything is sent."""
    refused = sorted(source.instances)[3]
    destination.faults = Faults(store_status={refused: 0xA900})
    _forwarded(client, source, destination.remote)
    destination.faults, offered = Faults(), len(destination.stores)
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.present, outcome.counters.success) == (Category.SUCCESS, HELD - 1, 1)
    assert destination.stores[offered:] == [refused]
    assert _forwarded(client, source, destination.remote).counters.present == HELD
    outcome = _forwarded(client, source, destination.remote, overwrite=True)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, HELD)
    assert len(destination.stores) == offered + 1 + HELD


def test_what_is_dropped_the_first_time_is_asked_for_again(
    client: PacsClient, source: TestPACS, destination: TestPACS
) -> None:
    """The source claims to have sent all instances; the destination does not list all."""
    source.faults = Faults(drop_every=3)
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, HELD)
    _assert_same(source, destination)
    assert len(destination.stores) == HELD


def test_what_the_destination_refuses_is_missing_by_name(
    client: PacsClient, source: TestPACS, destination: TestPACS
) -> None:
    """The reason has the counts of the source; the rest is there."""
    refused = sorted(source.instances)[:2]
    destination.faults = Faults(store_status=dict.fromkeys(refused, 0xA900))
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.success, outcome.counters.missing) == (Category.PARTIAL, HELD - 2, 2)
    assert [each.subject for each in outcome.problems] == refused
    for each in outcome.problems:
        assert each.category is InstanceCategory.MISSING
        assert "0 completed, 1 failed" in each.reason
        assert "DEST" in each.reason
        assert "SOURCE" in each.reason
    destination.faults = Faults()
    job = client.enqueue(RetrieveRequest(remote=source.remote, study_uid=study_uid(), to=destination.remote))
    job.wait(60)
    assert job.outcome().category is Category.SUCCESS
    _assert_same(source, destination)


def test_success_that_nothing_follows_is_none(client: PacsClient, source: TestPACS, destination: TestPACS) -> None:
    """The first answer is 0 of 0 sub-operations, as a busy PACS sends it; then it delivers."""
    source.faults = Faults(zero_suboperations=2)
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, HELD)
    _assert_same(source, destination)


@pytest.mark.parametrize("code", [0xA801, 0xC000])
def test_a_destination_that_the_source_does_not_know_is_told(
    code: int, client: PacsClient, source: TestPACS, destination: TestPACS
) -> None:
    """The reason names its AE title and the remedy, also where the source does not name it, as Orthanc."""
    source.destinations, source.faults = {}, Faults(unknown_destination_status=code)
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.missing) == (Category.FAILED, HELD)
    reasons = {each.reason for each in outcome.problems}
    assert len(reasons) == 1
    reason = reasons.pop()
    assert f"{code:04X}" in reason
    assert "'DEST'" in reason
    assert "destinations" in reason
    assert f"add DEST at 127.0.0.1:{destination.port}" in reason


@pytest.mark.parametrize("faults", [Faults(find_status=0xC000), Faults(no_image_level=0xA900)])
def test_what_the_destination_does_not_tell_is_no_success(
    faults: Faults, client: PacsClient, source: TestPACS, destination: TestPACS
) -> None:
    """It holds all instances, but nothing verifies it; the reason says so, with the answer of the source."""
    destination.faults = faults
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.failed) == (Category.FAILED, HELD)
    assert len(destination.instances) == HELD
    for each in outcome.problems:
        assert "not verified" in each.reason
        assert "completed, 0 failed" in each.reason


def test_a_destination_that_we_cannot_reach_proves_nothing(client: PacsClient, source: TestPACS) -> None:
    """It may accept the source and refuse us."""
    with TestPACS(ae_title="DEST", faults=Faults(calling_aets=("SOURCE",))) as destination:
        source.destinations = {"DEST": ("127.0.0.1", destination.port)}
        outcome = _forwarded(client, source, destination.remote)
        assert (outcome.category, outcome.counters.failed) == (Category.FAILED, HELD)
        assert len(destination.instances) == HELD
        assert all("not verified" in each.reason for each in outcome.problems)


def test_a_destination_that_is_gone_is_told(client: PacsClient, source: TestPACS) -> None:
    """Nothing was sent, and no instance counts as sent."""
    port = ports.free_port()
    source.destinations = {"DEST": ("127.0.0.1", port)}
    to = RemoteAE(ae_title="DEST", host="127.0.0.1", port=port)
    outcome = _forwarded(client, source, to)
    assert (outcome.category, outcome.counters.failed) == (Category.FAILED, HELD)
    assert all("0 completed" in each.reason and "not verified" in each.reason for each in outcome.problems)


def test_one_that_lists_a_part_is_asked_by_name(client: PacsClient, source: TestPACS, destination: TestPACS) -> None:
    """The destination ends its answers after two matches with success."""
    destination.faults = Faults(most_matches=2)
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, HELD)
    _assert_same(source, destination)


def test_overwrite_believes_no_old_instance(client: PacsClient, source: TestPACS, destination: TestPACS) -> None:
    """An instance from before does not count if the destination refuses it now."""
    _forwarded(client, source, destination.remote)
    destination.faults = Faults(store_status={EVERY_INSTANCE: 0xA900})
    outcome = _forwarded(client, source, destination.remote, overwrite=True)
    assert (outcome.category, outcome.counters.missing) == (Category.FAILED, HELD)
    assert all("again" in each.reason for each in outcome.problems)


def test_a_cancelled_one_goes_on_with_the_rest(client: PacsClient, source: TestPACS, destination: TestPACS) -> None:
    """Instances that the destination holds by then count as present."""
    source.faults = Faults(hold_instances_after=1)
    job = client.enqueue(RetrieveRequest(remote=source.remote, study_uid=study_uid(), to=destination.remote))
    wait_until(lambda: len(destination.instances) >= 2, 30, "two instances to come")
    job.cancel()
    assert job.wait(30).state is JobState.CANCELLED
    source.faults, there = Faults(), len(destination.instances)
    assert there < HELD
    job.retry().wait(60)
    assert job.outcome().category is Category.SUCCESS
    assert job.progress().counters.done == HELD
    _assert_same(source, destination)
    assert len(destination.stores) == HELD


def test_what_the_source_only_counts_is_no_success(client: PacsClient, source: TestPACS, destination: TestPACS) -> None:
    """Without UIDs the destination cannot be queried; all instances were sent all the same."""
    source.faults = Faults(no_image_level=0xA900)
    outcome = _forwarded(client, source, destination.remote)
    assert (outcome.category, outcome.counters.failed) == (Category.FAILED, HELD)
    assert all("not named them" in each.reason for each in outcome.problems)
    _assert_same(source, destination)


def test_only_a_series_goes(client: PacsClient, source: TestPACS, destination: TestPACS) -> None:
    """The rest of the study is not sent."""
    job = client.enqueue(
        RetrieveRequest(
            remote=source.remote, study_uid=study_uid(), series_uid=f"{study_uid()}.2", to=destination.remote
        )
    )
    job.wait(60)
    assert job.outcome().category is Category.SUCCESS
    assert len(destination.instances) == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"output_dir": "/out"}, "no output_dir"),
        ({"layout": "{PatientID}"}, "no layout"),
        ({"method": "get"}, "uses C-MOVE"),
        ({"move_aet": "OTHER"}, "uses C-MOVE"),
        ({"to": RemoteAE(ae_title="SOURCE")}, "are the same"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], said: str) -> None:
    """The request is rejected at once."""
    known = {"remote": RemoteAE(ae_title="SOURCE"), "study_uid": "1.2", "to": RemoteAE(ae_title="DEST")}
    with pytest.raises(InvalidRequestError, match=said):
        build(RetrieveRequest, {**known, **fields})
