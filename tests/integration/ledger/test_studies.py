"""The outcome of each study of a retrieve, from its lines in the manifest."""

from __future__ import annotations

import itertools
import random

from pacs_tasks.errors import JobFailedError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import KEPT, job_key
from pacs_tasks.ledger.manifest import InstanceLine, RetrieveLine, SelectionLine, Study
from pacs_tasks.outcome import Category, InstanceCategory, InstanceOutcome, Proof, StudyOutcome, TransferOutcome
from pacs_tasks.request import RetrieveRequest, Selection

REQUEST = RetrieveRequest(selections=(Selection(study_uid="1.1"), Selection(study_uid="1.2")), output_dir="/out")


def instances(study_uid: str, count: int) -> list[RetrieveLine]:
    """Lines of one series."""
    return [
        InstanceLine(f"{study_uid}.1.{number}", f"{study_uid}.1", "1.2.840.10008.5.1.4.1.1.2", study_uid)
        for number in range(count)
    ]


def opened(ledger: Ledger, lines: list[RetrieveLine], studies: list[Study], tail: int = 0) -> None:
    """Open a job and write its manifest."""
    ledger.open("job", REQUEST.task, REQUEST)
    ledger.start("job", "worker")
    assert ledger.manifest.plan("job", lines, "worker", studies, tail) == len(lines)


def record(ledger: Ledger, index: int, category: InstanceCategory, reason: str = "") -> None:
    ledger.record("job", index, InstanceOutcome(subject=f"{index}", category=category, reason=reason))


def test_each_study_has_an_outcome_of_its_own(ledger: Ledger) -> None:
    """One is complete, one is not, and one was not found; the job is partial."""
    studies = [
        Study(study_uid="1.1", lines=((0, 3),), proof=Proof.INSTANCES, rows=(2, 5)),
        Study(study_uid="1.2", lines=((3, 7),), proof=Proof.COUNTS, rows=(3,)),
        Study(name="row 4", tail=((7, 8),), rows=(4,)),
    ]
    opened(ledger, [*instances("1.1", 3), *instances("1.2", 4), SelectionLine("row 4", "")], studies, tail=1)
    assert (ledger.manifest.total("job"), ledger.manifest.resolved("job")) == (8, 7)
    for index in (0, 2, 3):
        record(ledger, index, InstanceCategory.SUCCESS)
    record(ledger, 1, InstanceCategory.PRESENT)
    record(ledger, 4, InstanceCategory.WARNING, "coerced")
    record(ledger, 5, InstanceCategory.MISSING, "it did not come")
    record(ledger, 6, InstanceCategory.FAILED, "it could not be written")
    ledger.record("job", 7, InstanceOutcome.unanswered("row 4", JobFailedError("no such study")))
    ledger.studies.record_method("job", "1.1", "C-MOVE")
    ledger.studies.record_method("job", "1.1", "C-GET", "C-MOVE was no way: A801")
    ledger.studies.record_method("job", "1.1", "C-GET", "another word")
    outcome = ledger.outcome("job")
    assert isinstance(outcome, TransferOutcome)
    assert outcome.category is Category.PARTIAL
    assert outcome.studies == (
        StudyOutcome(
            study_uid="1.1",
            category=Category.SUCCESS,
            promised=3,
            received=2,
            present=1,
            proof=Proof.INSTANCES,
            ways=("C-GET", "C-MOVE"),
            reason="C-MOVE was no way: A801",
            rows=(2, 5),
        ),
        StudyOutcome(
            study_uid="1.2",
            category=Category.PARTIAL,
            promised=4,
            received=2,
            missing=1,
            failed=1,
            proof=Proof.COUNTS,
            reason="it did not come",
            rows=(3,),
        ),
        StudyOutcome(category=Category.FAILED, failed=1, reason="no such study", rows=(4,)),
    )


def test_an_unlisted_instance_makes_its_study_partial(ledger: Ledger) -> None:
    """All promised instances came, but the remote lists fewer than were requested."""
    study = Study(study_uid="1.1", lines=((0, 2),), tail=((2, 3),), proof=Proof.INSTANCES, picked=True)
    opened(ledger, [*instances("1.1", 2), InstanceLine("1.1.9", "", "", "1.1")], [study], tail=1)
    record(ledger, 0, InstanceCategory.SUCCESS)
    record(ledger, 1, InstanceCategory.SUCCESS)
    record(ledger, 2, InstanceCategory.FAILED, "the peer does not list it")
    (told,) = ledger.studies.outcomes("job")
    assert (told.category, told.promised, told.received, told.failed) == (Category.PARTIAL, 2, 2, 1)
    assert ledger.studies.picked("job", "1.1")
    assert not ledger.studies.picked("job", "1.2")


def test_a_cancelled_study_is_reported_as_such(ledger: Ledger) -> None:
    """Instances that came before the cancel count."""
    opened(ledger, [*instances("1.1", 2), *instances("1.2", 2)],
           [Study(study_uid="1.1", lines=((0, 2),)), Study(study_uid="1.2", lines=((2, 4),))])  # fmt: skip
    for index in range(3):
        record(ledger, index, InstanceCategory.SUCCESS)
    ledger.cancel("job")
    told = [(each.category, each.received) for each in ledger.studies.outcomes("job")]
    assert told == [(Category.SUCCESS, 2), (Category.CANCELLED, 1)]


def test_studies_are_counted_without_reading_their_receipts(ledger: Ledger) -> None:
    """A thousand studies of any length are counted right without any receipt."""
    seeded, ends = random.Random(5), [0]
    for _ in range(1_000):
        ends.append(ends[-1] + seeded.randint(1, 200))
    lines = list(itertools.pairwise(ends))
    opened(ledger, [InstanceLine("1.2.3", "1.2", "1.3", "1.4")] * ends[-1],
           [Study(study_uid=f"1.{number}", lines=(each,)) for number, each in enumerate(lines)])  # fmt: skip
    recorded = set(seeded.sample(range(ends[-1]), ends[-1] // 2))
    present = set(seeded.sample(sorted(recorded), 100))
    with ledger.client.pipeline(transaction=False) as pipe:
        for name, indices in (("recorded", recorded), ("present", present)):
            for index in indices:
                pipe.setbit(job_key("job", name), index, 1)
        pipe.execute()
    told = ledger.studies.outcomes("job")
    assert [(each.promised, each.received, each.present) for each in told] == [
        (
            stop - start,
            sum(index in recorded and index not in present for index in range(start, stop)),
            sum(index in present for index in range(start, stop)),
        )
        for start, stop in lines
    ]


def test_studies_expire_with_the_job(ledger: Ledger) -> None:
    """They are discarded with it, too."""
    opened(ledger, instances("1.1", 2), [Study(study_uid="1.1", lines=((0, 2),))])
    record(ledger, 0, InstanceCategory.PRESENT)
    ledger.studies.record_method("job", "1.1", "C-GET")
    for part in ("studies", "ways", "present"):
        assert part in KEPT
        assert 0 < ledger.client.ttl(job_key("job", part)) <= 60
    ledger.discard("job")
    assert ledger.client.keys(job_key("job") + "*") == []


def test_many_selections_are_kept_apart(ledger: Ledger) -> None:
    """Reading the progress of a job, or working on a part, must not read a hundred thousand rows."""
    ledger.open("job", REQUEST.task, REQUEST)
    assert ledger.request("job") == REQUEST.model_copy(update={"selections": ()})
    assert ledger.request("job", bulk=True) == REQUEST
    assert ledger.progress("job").remote == str(REQUEST.remote)
