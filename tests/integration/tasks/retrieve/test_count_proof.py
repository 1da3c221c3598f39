"""A PACS that only counts its instances: each takes one line of the manifest, by whichever method it comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacs_tasks import Category, InstanceCategory, PacsClient, RetrieveMethod, RetrieveRequest, TransferOutcome
from pacs_tasks.client import Job
from pacs_tasks.outcome import Proof
from pacs_tasks.testing import Faults, TestPACS
from tests.integration.conftest import Receiver
from tests.support.dicom_files import UID_ROOT, data_set, instance, study_uid
from tests.support.waiting import wait_until

SERIES = {1: 4, 2: 3}
NUMBER = sum(SERIES.values())
#: The status of a remote that cannot list instances.
COUNTS = 0xA900
pytestmark = [
    pytest.mark.holds(*((1, series, count) for series, count in SERIES.items()), faults=Faults(no_image_level=COUNTS)),
    pytest.mark.usefixtures("receiver"),
]
BOTH = pytest.mark.parametrize("method", [RetrieveMethod.MOVE, RetrieveMethod.GET])


def enqueued(client: PacsClient, archive: TestPACS, directory: Path, **options: object) -> Job:
    fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(directory), "move_aet": "RECEIVER"}
    return client.enqueue(RetrieveRequest.model_validate({**fields, **options}))


def ended(job: Job) -> TransferOutcome:
    job.wait(50)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def on_disk(directory: Path) -> dict[str, bytes]:
    return {path.stem: data_set(path) for path in directory.rglob("*.dcm")}


def held(archive: TestPACS) -> dict[str, bytes]:
    return {uid: each.data_set for uid, each in archive.instances.items()}


@BOTH
def test_as_many_as_were_counted_are_all(
    client: PacsClient, archive: TestPACS, tmp_path: Path, method: RetrieveMethod, receiver: Receiver
) -> None:
    """The job lists each by its UID, and nothing stays at the receiver."""
    job = enqueued(client, archive, tmp_path / "out", method=method)
    outcome = ended(job)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, NUMBER)
    assert (outcome.studies[0].proof, outcome.studies[0].promised) == (Proof.COUNTS, NUMBER)
    assert on_disk(tmp_path / "out") == held(archive)
    assert sorted(each.subject for each in job.instances()) == sorted(archive.instances)
    assert not list(receiver.incoming.rglob("*.dcm"))


@BOTH
def test_what_was_dropped_comes_with_the_whole_and_counts_once(
    client: PacsClient, archive: TestPACS, tmp_path: Path, method: RetrieveMethod, receiver: Receiver
) -> None:
    """The whole series is requested again; an instance that comes twice takes one line."""
    archive.faults = Faults(no_image_level=COUNTS, drop_every=3)
    outcome = ended(enqueued(client, archive, tmp_path / "out", method=method))
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, NUMBER)
    assert on_disk(tmp_path / "out") == held(archive)
    assert not list(receiver.incoming.rglob("*.dcm"))


def test_fewer_than_were_counted_are_told_by_their_number(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """A retry fetches the missing ones and counts none twice."""
    gone = [f"{UID_ROOT}.1.1.1000001", f"{UID_ROOT}.1.1.1000003"]
    archive.faults = Faults(no_image_level=COUNTS, lost=gone)
    job = enqueued(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    outcome = ended(job)
    assert (outcome.category, outcome.counters.missing) == (Category.PARTIAL, 2)
    assert [each.subject for each in outcome.problems] == ["3 of 4", "4 of 4"]
    assert {each.category for each in outcome.problems} == {InstanceCategory.MISSING}
    assert all(each.reason.startswith("2 of 4 instances did not come") for each in outcome.problems)
    archive.faults = Faults(no_image_level=COUNTS)
    again = ended(job.retry())
    assert (again.category, again.counters.success, again.counters.missing) == (Category.SUCCESS, NUMBER, 0)
    assert on_disk(tmp_path / "out") == held(archive)


@BOTH
def test_more_than_were_counted_are_kept_and_noted(
    client: PacsClient, archive: TestPACS, tmp_path: Path, method: RetrieveMethod
) -> None:
    """A scanner may still send: the promise is complete, and the additional instance is kept."""
    archive.faults = Faults(no_image_level=COUNTS, hold_instances_after=0)
    job = enqueued(client, archive, tmp_path / "out", method=method)
    wait_until(lambda: client.ledger.manifest.planned(job.id), 20, "the promise")
    archive.hold(instance(999, series=1, rows=2))
    archive.faults = Faults(no_image_level=COUNTS)
    outcome = ended(job)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, NUMBER)
    assert "more instances came than the remote had listed or counted (1)" in outcome.studies[0].reason
    assert on_disk(tmp_path / "out") == held(archive)


@BOTH
def test_a_study_of_which_only_the_total_is_known(
    client: PacsClient, archive: TestPACS, tmp_path: Path, method: RetrieveMethod, receiver: Receiver
) -> None:
    """The study is requested as a whole, and each series goes to its place."""
    archive.faults = Faults(most_matches=1, drop_every=3)
    outcome = ended(enqueued(client, archive, tmp_path / "out", method=method))
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, NUMBER)
    assert (outcome.studies[0].proof, outcome.studies[0].promised) == (Proof.COUNTS, NUMBER)
    assert on_disk(tmp_path / "out") == held(archive)
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.dcm")} == {f"{study_uid()}.1", f"{study_uid()}.2"}
    assert not list(receiver.incoming.rglob("*.dcm"))
    assert {each.get("SeriesInstanceUID") for each in archive.identifiers if "SpecificCharacterSet" not in each} == {
        None
    }
