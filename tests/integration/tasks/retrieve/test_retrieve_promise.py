"""The promise of a retrieve: a list of instances, a count if the list is missing or short, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacs_tasks import Category, JobFailedError, PacsClient, RetrieveRequest, Selection, TransferOutcome
from pacs_tasks.client import Job
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import Proof
from pacs_tasks.request import RetrieveMethod
from pacs_tasks.testing import Faults, TestPACS
from pacs_tasks.testing.faults import Silence
from tests.support.dicom_files import study_uid, write_series

#: Instances in each series of study 1; study 2 has one of two.
SIZES = (4, 3)
WHOLE = sum(SIZES)
LIMIT = 60
pytestmark = pytest.mark.holds(*((1, series, count) for series, count in enumerate(SIZES, 1)), (2, 1, 2))


def series_uid(series: int) -> str:
    return f"{study_uid()}.{series}"


def uid(series: int, number: int) -> str:
    return f"{series_uid(series)}.{1_000_000 + number}"


def enqueued(client: PacsClient, archive: TestPACS, directory: Path, **fields: object) -> Job:
    """The study 1, by C-GET, unless ``fields`` say otherwise."""
    known = {"remote": archive.remote, "output_dir": str(directory), "method": RetrieveMethod.GET}
    wanted = {} if {"selections", "accession_number"} & set(fields) else {"study_uid": study_uid()}
    return client.enqueue(RetrieveRequest.model_validate({**known, **wanted, **fields}))


def ended(job: Job) -> TransferOutcome:
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def on_disk(directory: Path) -> set[str]:
    return {path.stem for path in directory.rglob("*.dcm")}


def of_study(archive: TestPACS, study: int = 1) -> set[str]:
    return {each for each in archive.instances if each.startswith(f"{study_uid(study)}.")}


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122, 0xA700])
def test_a_peer_that_lists_no_instances_promises_a_number(
    client: PacsClient, archive: TestPACS, tmp_path: Path, status: int
) -> None:
    """It promises a number for each series."""
    archive.faults = Faults(no_image_level=status)
    job = enqueued(client, archive, tmp_path / "out")
    outcome = ended(job)
    assert (outcome.category, outcome.counters.total) == (Category.SUCCESS, WHOLE)
    assert on_disk(tmp_path / "out") == of_study(archive)
    (study,) = outcome.studies
    assert (study.proof, study.promised, study.received) == (Proof.COUNTS, WHOLE, WHOLE)
    assert f"cannot list the instances ({status:04X}" in study.reason
    assert {each.sop_instance_uid for each in job.receipts()} == of_study(archive)


def test_what_does_not_come_of_a_number_is_missing(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Its UID is unknown; the study is partial."""
    archive.faults = Faults(no_image_level=0xA900, lost=[uid(1, 2)])
    outcome = ended(enqueued(client, archive, tmp_path / "out"))
    assert (outcome.category, on_disk(tmp_path / "out")) == (Category.PARTIAL, of_study(archive) - {uid(1, 2)})
    (study,) = outcome.studies
    assert (study.category, study.promised, study.received, study.missing) == (Category.PARTIAL, WHOLE, WHOLE - 1, 1)
    assert [each.subject.partition(" of ")[2] for each in outcome.problems] == [str(SIZES[0])]


@pytest.mark.parametrize("status", [0x0000, 0xA700])
def test_a_list_that_is_shorter_than_the_count_is_no_promise(
    client: PacsClient, archive: TestPACS, tmp_path: Path, status: int
) -> None:
    """Whether or not the remote reports that it limited the list, the count is the promise."""
    archive.faults = Faults(most_matches=2, most_matches_status=status)
    outcome = ended(enqueued(client, archive, tmp_path / "out"))
    assert (outcome.category, on_disk(tmp_path / "out")) == (Category.SUCCESS, of_study(archive))
    (study,) = outcome.studies
    assert (study.proof, study.promised, study.received) == (Proof.COUNTS, WHOLE, WHOLE)
    said = "cannot list the instances (A700" if status else "lists 2 of the 4 instances that it counts in a series"
    assert said in study.reason


def test_a_list_that_is_cut_off_is_never_called_complete(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """All listed instances have come, but the remote counts more."""
    archive.faults = Faults(most_matches=3, lost=[uid(1, 4)])
    outcome = ended(enqueued(client, archive, tmp_path / "out"))
    assert on_disk(tmp_path / "out") == of_study(archive) - {uid(1, 4)}
    assert (outcome.category, outcome.studies[0].category) == (Category.PARTIAL, Category.PARTIAL)
    assert "lists 3 of the 4 instances" in outcome.studies[0].reason


def test_a_list_of_series_that_is_cut_off_is_noticed(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The number of instances of the study shows it; the study is fetched as a whole."""
    archive.faults = Faults(most_matches=1)
    outcome = ended(enqueued(client, archive, tmp_path / "out"))
    assert (outcome.category, on_disk(tmp_path / "out")) == (Category.SUCCESS, of_study(archive))
    (study,) = outcome.studies
    assert (study.proof, study.promised, study.received) == (Proof.COUNTS, WHOLE, WHOLE)
    assert f"lists 4 of the {WHOLE} instances that it counts in the study" in study.reason


def test_a_list_that_ends_at_a_round_number_is_remarked_upon(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """Without a count, there may be more than the remote has listed."""
    archive.hold(*write_series(tmp_path / "many", 101, study=3, rows=2))
    archive.faults = Faults(most_matches=100, no_counts=True)
    outcome = ended(enqueued(client, archive, tmp_path / "out", accession_number="A3"))
    assert "lists exactly 100 instances of a series and reports no count" in outcome.studies[0].reason
    assert (outcome.category, outcome.studies[0].category) == (Category.WARNING, Category.WARNING)


def test_without_a_list_and_a_count_nothing_is_promised(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Nothing is fetched. For one study that is an error, for several an outcome each."""
    archive.faults = Faults(no_image_level=0xA900, no_counts=True)
    with pytest.raises(JobFailedError, match="cannot list the instances of the study"):
        ended(enqueued(client, archive, tmp_path / "out"))
    selections = (Selection(study_uid=study_uid(1)), Selection(study_uid=study_uid(2), series_uid=f"{study_uid(2)}.1"))
    outcome = ended(enqueued(client, archive, tmp_path / "out", selections=selections))
    for study in outcome.studies:
        assert (study.category, study.proof, study.promised) == (Category.FAILED, Proof.NONE, 0)
        assert "no retrieve can be verified without that list" in study.reason
    assert on_disk(tmp_path / "out") == set()


def test_instances_beyond_the_end_of_a_list_are_found(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The remote receives a query for each UID."""
    archive.faults = Faults(most_matches=2)
    wanted = (uid(1, 1), uid(1, 3), uid(1, 4))
    outcome = ended(enqueued(client, archive, tmp_path / "out", sop_instance_uids=wanted))
    assert (outcome.category, on_disk(tmp_path / "out")) == (Category.SUCCESS, set(wanted))
    assert outcome.studies[0].proof is Proof.INSTANCES


def test_instances_that_the_peer_cannot_list_are_asked_for_by_name(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """There is no promise, as the outcome shows; an instance that does not come is missing by name."""
    archive.faults = Faults(no_image_level=0xA900, lost=[uid(1, 2)])
    wanted = (uid(1, 1), uid(1, 2), uid(1, 4))
    job = enqueued(client, archive, tmp_path / "out", series_uid=series_uid(1), sop_instance_uids=wanted)
    outcome = ended(job)
    assert on_disk(tmp_path / "out") == {uid(1, 1), uid(1, 4)}
    assert [each.subject for each in outcome.problems] == [uid(1, 2)]
    (study,) = outcome.studies
    assert (study.category, study.proof, study.promised, study.received) == (Category.PARTIAL, Proof.NONE, 3, 2)
    assert "requested by their UIDs alone" in study.reason
    with pytest.raises(JobFailedError, match=r"their series is unknown\. Name the series"):
        ended(enqueued(client, archive, tmp_path / "out", sop_instance_uids=wanted))


def test_a_peer_that_ends_each_association_is_asked_over_the_next(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """Some remotes serve one query per association."""
    archive.faults = Faults(abort_after_find=True)
    selections = (Selection(accession_number="A1"), Selection(study_uid=study_uid(2)))
    outcome = ended(enqueued(client, archive, tmp_path / "out", selections=selections))
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, len(archive.instances))


def test_a_peer_that_never_answers_one_kind_of_query_is_told(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """It aborts at each query by accession number and answers others, so the others are retrieved."""
    archive.faults = Faults(abort_at_keys=["AccessionNumber"])
    selections = (Selection(accession_number="A1"), Selection(study_uid=study_uid(2)))
    outcome = ended(enqueued(client, archive, tmp_path / "out", selections=selections))
    assert [(each.study_uid, each.category) for each in outcome.studies] == [
        (study_uid(2), Category.SUCCESS),
        ("", Category.FAILED),
    ]
    (problem,) = outcome.problems
    assert problem.error == "PeerUnavailableError"
    with pytest.raises(PeerUnavailableError):
        ended(enqueued(client, archive, tmp_path / "out", accession_number="A1"))


def test_a_peer_that_falls_silent_is_not_asked_for_every_row(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """The job ends with that error after one query and has no manifest."""
    archive.faults = Faults(silence=Silence.ASSOCIATED)
    selections = tuple(Selection(study_uid=f"1.2.{number}") for number in range(100))
    job = enqueued(client, archive, tmp_path / "out", selections=selections, timeout=2)
    with pytest.raises(PeerUnavailableError):
        ended(job)
    assert archive.associations == 1
    assert not client.ledger.manifest.planned(job.id)
