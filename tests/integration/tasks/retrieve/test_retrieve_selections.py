"""Retrieves by study, series, instances and accession number, and many of these in one job."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from pydicom import Dataset

from pacs_tasks import (
    Category,
    InstanceCategory,
    JobFailedError,
    JobState,
    PacsClient,
    RetrieveRequest,
    Selection,
    StudyOutcome,
    TransferOutcome,
)
from pacs_tasks.client import Job
from pacs_tasks.errors import PeerUnreachableError
from pacs_tasks.outcome import Proof
from pacs_tasks.request import RetrieveMethod
from pacs_tasks.testing import Faults, TestPACS
from tests.support.dicom_files import data_set, study_uid, write_series
from tests.support.ports import free_port
from tests.support.waiting import wait_until

#: Three studies: of 4 and 3, of 2, and of 2 instances.
pytestmark = pytest.mark.holds((1, 1, 4), (1, 2, 3), (2, 1, 2), (3, 1, 2))

LIMIT = 60


def series_uid(study: int, series: int) -> str:
    return f"{study_uid(study)}.{series}"


def uid(study: int, series: int, number: int) -> str:
    return f"{series_uid(study, series)}.{1_000_000 + number}"


def enqueued(client: PacsClient, archive: TestPACS, directory: Path, **fields: object) -> Job:
    fields = {"remote": archive.remote, "output_dir": str(directory), "method": RetrieveMethod.GET, **fields}
    return client.enqueue(RetrieveRequest.model_validate(fields))


def ended(job: Job) -> TransferOutcome:
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def on_disk(directory: Path) -> set[str]:
    """The instances below a directory; each is at the path of its UIDs."""
    found = {path.stem: path for path in directory.rglob("*") if path.is_file()}
    for name, path in found.items():
        series = name.rpartition(".")[0]
        assert path == directory / series.rpartition(".")[0] / series / f"{name}.dcm"
    return set(found)


def of_study(archive: TestPACS, study: int) -> set[str]:
    return {each for each in archive.instances if each.startswith(f"{study_uid(study)}.")}


def named(identifiers: Iterable[Dataset]) -> set[str]:
    """The instances that requests named."""
    values = [each.get("SOPInstanceUID") or [] for each in identifiers]
    return {str(name) for value in values for name in ([value] if isinstance(value, str) else value)}


def told(outcome: TransferOutcome) -> dict[str, StudyOutcome]:
    return {each.study_uid: each for each in outcome.studies}


def test_a_study_comes_with_one_outcome(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The remote has listed its instances."""
    outcome = ended(enqueued(client, archive, tmp_path / "out", study_uid=study_uid(1)))
    assert on_disk(tmp_path / "out") == of_study(archive, 1)
    (study,) = outcome.studies
    assert (study.study_uid, study.category, study.proof) == (study_uid(1), Category.SUCCESS, Proof.INSTANCES)
    assert (study.promised, study.received, study.missing, study.failed, study.rows) == (7, 7, 0, 0, ())


@pytest.mark.parametrize("with_series", [True, False])
def test_instances_come_alone(client: PacsClient, archive: TestPACS, tmp_path: Path, with_series: bool) -> None:
    """Their series need not be named."""
    wanted = {uid(1, 1, 2), uid(1, 1, 4)} | (set() if with_series else {uid(1, 2, 1)})
    series = {"series_uid": series_uid(1, 1)} if with_series else {}
    job = enqueued(client, archive, tmp_path / "out", study_uid=study_uid(1), sop_instance_uids=tuple(wanted), **series)
    outcome = ended(job)
    assert (outcome.category, outcome.counters.total) == (Category.SUCCESS, len(wanted))
    assert on_disk(tmp_path / "out") == wanted
    fetched = [each for each in archive.identifiers if "SOPClassUID" not in each and "SOPInstanceUID" in each]
    assert named(fetched) == wanted


def test_an_instance_that_the_peer_does_not_list_is_told(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """It fails by name, and the others come."""
    wanted = (uid(1, 1, 1), uid(1, 1, 999))
    outcome = ended(enqueued(client, archive, tmp_path / "out", study_uid=study_uid(1), sop_instance_uids=wanted))
    assert (outcome.category, on_disk(tmp_path / "out")) == (Category.PARTIAL, {wanted[0]})
    (problem,) = outcome.problems
    assert (problem.subject, problem.category) == (wanted[1], InstanceCategory.FAILED)
    assert "does not list this UID" in problem.reason
    (study,) = outcome.studies
    assert (study.category, study.promised, study.received, study.failed) == (Category.PARTIAL, 1, 1, 1)


def test_nothing_of_what_was_named_is_an_error(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """It is the same error as for an unknown study."""
    job = enqueued(client, archive, tmp_path / "out", study_uid=study_uid(1), sop_instance_uids=("1.2.3",))
    with pytest.raises(JobFailedError, match="lists none of the named instances"):
        ended(job)


def test_an_accession_number_stands_for_its_studies(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """All studies with the number come, and no others."""
    for path in write_series(tmp_path / "more", 2, study=31, rows=2):
        path.write_bytes(path.read_bytes().replace(b"A31 ", b"A3  "))
        archive.hold(path)
    outcome = ended(enqueued(client, archive, tmp_path / "out", accession_number="A3"))
    assert {name: study.received for name, study in told(outcome).items()} == {study_uid(3): 2, study_uid(31): 2}
    assert on_disk(tmp_path / "out") == of_study(archive, 3) | of_study(archive, 31)


def test_an_accession_number_that_nobody_has_is_an_error(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The number is the subject of the error and not in its message, since it may identify a patient."""
    with pytest.raises(JobFailedError, match="lists no study with this accession number") as raised:
        ended(enqueued(client, archive, tmp_path / "out", accession_number="NOBODY"))
    assert (raised.value.subject, "NOBODY" in raised.value.message) == ("NOBODY", False)


def test_a_patient_id_stands_for_the_studies_of_the_patient(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """Alone, beside an accession number, and for nobody; another case is another patient."""
    for study, patient in ((31, "Q7"), (32, "Q7"), (33, "q7")):
        for path in write_series(tmp_path / f"{study}", 2, study=study, rows=2, patient_id=patient):
            archive.hold(path)
    outcome = ended(enqueued(client, archive, tmp_path / "all", patient_id="Q7"))
    assert {name: study.received for name, study in told(outcome).items()} == {study_uid(31): 2, study_uid(32): 2}
    ended(enqueued(client, archive, tmp_path / "one", patient_id="Q7", accession_number="A32"))
    assert on_disk(tmp_path / "one") == of_study(archive, 32)
    for names in ({"patient_id": "NOBODY"}, {"patient_id": "Q7", "accession_number": "A33"}):
        with pytest.raises(JobFailedError, match="lists no study with this") as raised:
            ended(enqueued(client, archive, tmp_path / "none", **names))
        assert (raised.value.subject in {"NOBODY", "A33 of Q7"}, "Q7" in raised.value.message) == (True, False)


def test_a_batch_is_one_job_with_an_outcome_for_each_study(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """Rows of the same study share an outcome; a row that is not found does not stop the others."""
    selections = (
        Selection(study_uid=study_uid(1), series_uid=series_uid(1, 2), row=2),
        Selection(accession_number="A2", row=3),
        Selection(accession_number="NOBODY", row=4),
        Selection(study_uid=study_uid(1), sop_instance_uids=(uid(1, 1, 3), uid(1, 2, 1)), row=5),
        Selection(study_uid="1.2.3", row=6),
        Selection(study_uid=study_uid(2), row=7),
        Selection(accession_number="NOBODY", row=8),
        Selection(accession_number="A3", study_uid=study_uid(1), row=9),
    )
    job = enqueued(client, archive, tmp_path / "out", selections=selections)
    outcome = ended(job)
    assert on_disk(tmp_path / "out") == {uid(1, 1, 3), *(uid(1, 2, n) for n in (1, 2, 3))} | of_study(archive, 2)
    assert [(each.study_uid, each.category, each.promised, each.received, each.rows) for each in outcome.studies] == [
        (study_uid(1), Category.SUCCESS, 4, 4, (2, 5)),
        (study_uid(2), Category.SUCCESS, 2, 2, (3, 7)),
        ("1.2.3", Category.FAILED, 0, 0, (6,)),
        ("", Category.FAILED, 0, 0, (4, 8)),
        ("", Category.FAILED, 0, 0, (9,)),
    ]
    assert (outcome.category, outcome.counters.total, outcome.counters.failed) == (Category.PARTIAL, 9, 3)
    assert [each.subject for each in outcome.problems] == ["row 6", "row 4", "row 9"]
    receipts = list(job.receipts())
    assert [each.study_uid for each in receipts] == [study_uid(1)] * 4 + [study_uid(2)] * 2 + ["1.2.3", "", ""]
    assert [each.sop_instance_uid for each in receipts[-3:]] == ["", "", ""]
    assert receipts[-1].reason.startswith("row 9: ")


def test_a_batch_of_which_nothing_is_found_has_failed(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Each row has an outcome all the same."""
    job = enqueued(client, archive, tmp_path / "out", selections=(Selection(study_uid="1.2.3"),) * 2)
    outcome = ended(job)
    assert (outcome.category, outcome.counters.failed, len(outcome.studies)) == (Category.FAILED, 1, 1)
    assert "lists no instance of this study" in outcome.studies[0].reason
    assert outcome.problems[0].subject == "selection 1"


def test_a_retry_asks_again_for_what_was_not_found(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Found and missing instances come, none of them twice; the rest is reported again."""
    selections = (
        Selection(study_uid=study_uid(1), sop_instance_uids=(uid(1, 1, 1), uid(1, 1, 5)), row=2),
        Selection(accession_number="A4", row=3),
        Selection(study_uid=study_uid(2), row=4),
        Selection(study_uid="1.2.3", row=5),
    )
    archive.faults = Faults(unsent=[uid(2, 1, 1)])
    job = enqueued(client, archive, tmp_path / "out", selections=selections)
    first = ended(job)
    assert [(each.category, each.promised) for each in first.studies] == [
        (Category.PARTIAL, 1),
        (Category.PARTIAL, 2),
        (Category.FAILED, 0),
        (Category.FAILED, 0),
    ]
    archive.faults = Faults()
    archive.hold(*write_series(tmp_path / "new", 3, study=4, rows=2), write_series(tmp_path / "fifth", 5, rows=2)[4])
    fetched = len(archive.identifiers)
    second = ended(job.retry())
    assert on_disk(tmp_path / "out") == {uid(1, 1, 1), uid(1, 1, 5)} | of_study(archive, 2) | of_study(archive, 4)
    assert [(each.study_uid, each.category, each.promised, each.received, each.rows) for each in second.studies] == [
        (study_uid(1), Category.SUCCESS, 2, 2, (2,)),
        (study_uid(2), Category.SUCCESS, 2, 2, (4,)),
        (study_uid(4), Category.SUCCESS, 3, 3, (3,)),
        ("1.2.3", Category.FAILED, 0, 0, (5,)),
    ]
    assert (second.counters.total, second.counters.success, second.counters.failed) == (8, 7, 1)
    assert uid(1, 1, 1) not in named(archive.identifiers[fetched:])
    third = ended(job.retry())
    assert (third.counters, third.studies) == (second.counters, second.studies)


def test_a_batch_whose_peer_is_down_is_told_at_once(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The job has no manifest then."""
    remote = archive.remote.model_copy(update={"port": free_port()})
    job = enqueued(client, archive, tmp_path / "out", selections=(Selection(study_uid=study_uid(1)),), remote=remote)
    with pytest.raises(PeerUnreachableError):
        ended(job)
    assert not client.ledger.manifest.planned(job.id)


def test_a_plan_can_be_cancelled(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """It ends in the middle of its queries; a retry repeats them."""
    archive.faults = Faults(delay=0.2)
    selections = tuple(Selection(study_uid=study_uid(number)) for number in (1, 2, 3, *range(1_000, 1_200)))
    job = enqueued(client, archive, tmp_path / "out", selections=selections)
    wait_until(lambda: len(archive.identifiers) > 3, LIMIT, "the request")
    job.cancel()
    assert job.wait(LIMIT).state is JobState.CANCELLED
    assert not client.ledger.manifest.planned(job.id)
    archive.faults = Faults()
    assert ended(job.retry()).counters.success == len(archive.instances)


def test_many_rows_are_planned_over_one_association(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The remote holds three of three hundred."""
    selections = tuple(Selection(study_uid=study_uid(number), row=number + 1) for number in range(1, 301))
    job = enqueued(client, archive, tmp_path / "out", selections=selections)
    outcome = ended(job)
    assert (outcome.counters.success, outcome.counters.failed) == (len(archive.instances), 297)
    assert len(outcome.studies) == 300
    # One for the plan, one for each part.
    assert archive.associations == 5


def test_every_file_is_that_of_the_peer(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Data sets are bit exact, by whatever key they were selected."""
    selections = (Selection(accession_number="A1"), Selection(study_uid=study_uid(2)), Selection(accession_number="A3"))
    assert ended(enqueued(client, archive, tmp_path / "out", selections=selections))
    found = {path.stem: data_set(path) for path in (tmp_path / "out").rglob("*.dcm")}
    assert found == {name: held.data_set for name, held in archive.instances.items()}
