"""Many queries as one job: each row has its own outcome and its own matches, whatever happens meanwhile."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pacs_tasks import (
    Category,
    FindBatchRequest,
    FindRow,
    InstanceCategory,
    InvalidRequestError,
    Job,
    JobState,
    Level,
    PacsClient,
    PeerUnreachableError,
    TransferOutcome,
)
from pacs_tasks.connection import connect
from pacs_tasks.ledger.keys import PARTS, job_key
from pacs_tasks.testing import Faults, TestPACS
from tests.integration.tasks.engine.test_services import everything_but_the_ledger
from tests.support import workers
from tests.support.after_death import expire_claims, return_messages
from tests.support.dicom_files import CHINESE_NAME, instance, study_uid, write_patients, write_series
from tests.support.processes import Process
from tests.support.waiting import wait_until

LIMIT = 40


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[TestPACS]:
    """A PACS with 40 studies of one patient each."""
    with TestPACS(instances=write_patients(tmp_path / "held", 40)) as running:
        yield running


def batch(archive: TestPACS, patients: Sequence[str], **fields: object) -> FindBatchRequest:
    """A query for each of these patients; the first is row 2, as in a file."""
    rows = [FindRow(number=number, keys={"PatientID": each}) for number, each in enumerate(patients, 2)]
    return FindBatchRequest.model_validate({"remote": archive.remote, "rows": rows, **fields})


def patients(count: int) -> list[str]:
    return [f"P{number}" for number in range(1, count + 1)]


def answered(job: Job) -> TransferOutcome:
    """The outcome of a job, once it has ended."""
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def found(job: Job) -> dict[int, list[str]]:
    """By row, the Study Instance UIDs of its matches."""
    return {each.row: [match["0020000D"]["Value"][0] for match in each.matches] for each in job.matches()}


def asked(archive: TestPACS) -> Counter[str]:
    """How often the PACS received a query for each patient."""
    return Counter(str(each.PatientID) for each in archive.identifiers)


def test_each_row_has_its_matches_in_the_order_of_the_request(client: PacsClient, archive: TestPACS) -> None:
    """Matches name their row; a row without a match has an outcome as well."""
    job = client.enqueue(batch(archive, ["P3", "nobody", "P1", "P1*"], keys={"StudyDate": "20240115"}))
    outcome = answered(job)
    assert (outcome.category, outcome.counters.success, outcome.counters.total) == (Category.SUCCESS, 4, 4)
    rows = list(job.matches())
    assert [each.row for each in rows] == [2, 3, 4, 5]
    assert [len(each.matches) for each in rows] == [1, 0, 1, 11]
    assert found(job)[4] == [study_uid(1)]
    assert rows[0].matches[0]["00100010"]["Value"] == [{"Alphabetic": CHINESE_NAME}]
    assert all(each.outcome is not None and each.outcome.attempts == 1 for each in rows)


def test_many_rows_share_few_associations(client: PacsClient, archive: TestPACS) -> None:
    """A part has several rows and uses the association of the part before."""
    job = client.enqueue(batch(archive, patients(40) * 5))
    assert answered(job).counters.success == 200
    assert found(job) == {row: [study_uid((row - 2) % 40 + 1)] for row in range(2, 202)}
    assert len(archive.identifiers) == 200
    # On a busy machine, a process keeps an association for fewer parts.
    assert archive.associations < 40


def test_the_keys_of_a_row_go_before_those_of_all(client: PacsClient, archive: TestPACS) -> None:
    """An empty key of a row only requests the attribute."""
    rows = [FindRow(number=1, keys={"AccessionNumber": "A7"}), FindRow(number=2, keys={"PatientID": ""})]
    request = FindBatchRequest(remote=archive.remote, level=Level.STUDY, keys={"PatientID": "P7"}, rows=tuple(rows))
    job = client.enqueue(request)
    assert answered(job)
    assert [len(each.matches) for each in job.matches()] == [1, 40]


def test_a_row_that_the_peer_refuses_fails_alone(client: PacsClient, archive: TestPACS) -> None:
    """It fails with its status; a retry covers this row alone."""
    archive.faults = Faults(find_statuses={"P2": 0x0122})
    job = client.enqueue(batch(archive, patients(5)))
    outcome = answered(job)
    assert (outcome.category, outcome.counters.success, outcome.counters.failed) == (Category.PARTIAL, 4, 1)
    (problem,) = outcome.problems
    assert (problem.subject, problem.status and problem.status.code) == ("row 3", 0x0122)
    assert asked(archive)["P2"] == 1, "what is permanent is not asked again"
    archive.faults = Faults()
    job.retry()
    assert answered(job).category is Category.SUCCESS
    assert found(job) == {row: [study_uid(row - 1)] for row in range(2, 7)}
    assert asked(archive) == {"P1": 1, "P2": 2, "P3": 1, "P4": 1, "P5": 1}


def test_a_row_that_fails_for_now_is_asked_again(client: PacsClient, archive: TestPACS) -> None:
    """A700, out of resources, is retried as often as the worker's settings allow."""
    archive.faults = Faults(find_statuses={"P2": 0xA700})
    job = client.enqueue(batch(archive, patients(3)))
    wait_until(lambda: asked(archive)["P2"] >= 2, 20, "the second try")
    archive.faults = Faults()
    assert answered(job).category is Category.SUCCESS
    assert (asked(archive)["P1"], asked(archive)["P3"]) == (1, 1)
    outcomes = [each.outcome for each in job.matches()]
    assert [each and each.attempts for each in outcomes] == [1, asked(archive)["P2"], 1]


def test_a_row_whose_key_cannot_be_written_fails_before_it_is_asked(client: PacsClient, archive: TestPACS) -> None:
    """It does not disturb the others, and its reason repeats no value."""
    rows = (FindRow(number=2, keys={"SeriesNumber": "1"}), FindRow(number=3, keys={"Rows": "Secret"}))
    job = client.enqueue(FindBatchRequest(remote=archive.remote, rows=rows))
    outcome = answered(job)
    assert (outcome.category, outcome.counters.failed) == (Category.PARTIAL, 1)
    (problem,) = outcome.problems
    assert (problem.subject, problem.error) == ("row 3", "InvalidRequestError")
    assert "Secret" not in problem.reason
    assert len(archive.identifiers) == 1


def test_a_row_with_more_matches_than_the_limit_says_so(client: PacsClient, archive: TestPACS) -> None:
    """It has a warning; the next row uses the same association."""
    job = client.enqueue(batch(archive, ["P1*", "P2"], limit=3))
    outcome = answered(job)
    assert (outcome.category, outcome.counters.warning, outcome.counters.success) == (Category.WARNING, 1, 1)
    assert "limit of 3" in outcome.problems[0].reason
    assert [len(each.matches) for each in job.matches()] == [3, 1]


def test_a_peer_that_ignores_the_end_of_a_row_answers_the_next_one(client: PacsClient, archive: TestPACS) -> None:
    """The next row uses a new association."""
    # Eleven matches of P1* keep the remote busy for longer than its final status may take.
    archive.faults = Faults(ignore_cancel=True, delay=0.5)
    job = client.enqueue(batch(archive, ["P1*", "P2"], limit=1))
    assert (answered(job).category, len(found(job)[2]), found(job)[3]) == (Category.WARNING, 1, [study_uid(2)])


def test_an_answer_that_looks_cut_off_is_a_warning(client: PacsClient, tmp_path: Path) -> None:
    """Its matches are kept, and their number is the reason."""
    held = [*write_series(tmp_path / "1", 100, rows=2), *write_series(tmp_path / "2", 99, study=2, rows=2)]
    with TestPACS(instances=held) as archive:
        rows = tuple(FindRow(number=each, keys={"StudyInstanceUID": study_uid(each)}) for each in (1, 2))
        job = client.enqueue(FindBatchRequest(remote=archive.remote, level=Level.IMAGE, rows=rows))
        outcome = answered(job)
    assert (outcome.category, outcome.counters.warning) == (Category.WARNING, 1)
    assert "100 matches, which may be a limit" in outcome.problems[0].reason
    assert [len(each.matches) for each in job.matches()] == [100, 99]


def test_a_row_that_the_peer_ends_early_keeps_its_matches(client: PacsClient, archive: TestPACS) -> None:
    """FE00 without C-CANCEL: the row is a warning with its matches, and the next one is answered."""
    archive.faults = Faults(most_matches=7, most_matches_status=0xFE00)
    job = client.enqueue(batch(archive, ["P*", "P2"]))
    outcome = answered(job)
    assert (outcome.category, outcome.counters.warning, outcome.counters.success) == (Category.WARNING, 1, 1)
    assert "ended the query after 7 matches (FE00" in outcome.problems[0].reason
    assert [len(each.matches) for each in job.matches()] == [7, 1]


def test_a_row_whose_key_the_peer_ignored_is_a_warning(client: PacsClient, archive: TestPACS) -> None:
    """The reason names the key; with ``strict`` only what matches is left."""
    archive.faults = Faults(ignored_keys=["PatientID"])
    job = client.enqueue(batch(archive, ["P2"]))
    outcome = answered(job)
    assert "ignored PatientID: 39 of 40 matches" in outcome.problems[0].reason
    strict = client.enqueue(batch(archive, ["P2"], strict=True))
    assert answered(strict).counters.warning == 1
    assert [[len(each.matches) for each in one.matches()] for one in (job, strict)] == [[40], [1]]


def test_rows_that_a_cancel_left_are_asked_by_a_retry(client: PacsClient, archive: TestPACS) -> None:
    """Rows with an outcome keep it, and the PACS receives no query twice."""
    archive.faults = Faults(hold_requests_after=10)
    job = client.enqueue(batch(archive, patients(40)))
    wait_until(lambda: job.progress().counters.success > 4, 20, "some rows are answered")
    job.cancel()
    progress = job.wait(10)
    assert progress.state is JobState.CANCELLED
    rows = list(job.matches())
    assert len(rows) == 40
    kept = [each.row for each in rows if each.outcome is not None]
    assert 4 < len(kept) == progress.counters.success < 40
    assert all(bool(each.matches) is (each.outcome is not None) for each in rows)
    archive.faults = Faults()
    before = asked(archive)
    job.retry()
    assert answered(job).category is Category.SUCCESS
    assert found(job) == {row: [study_uid(row - 1)] for row in range(2, 42)}
    assert all(asked(archive)[f"P{row - 1}"] == before[f"P{row - 1}"] for row in kept)


@pytest.mark.thorough
def test_a_killed_worker_in_the_middle_costs_no_row(redis_url: str, archive: TestPACS, tmp_path: Path) -> None:
    """Another worker goes on; only the rows in progress are queried again."""
    archive.faults = Faults(hold_requests_after=8)
    with PacsClient(redis_url) as client:
        job = client.enqueue(batch(archive, patients(40)))
        alone = {"PACS_TASKS_ASSOCIATIONS_PER_PROCESS": "1"}
        with workers.worker(redis_url, tmp_path, "first", concurrency=2, **alone) as first:
            wait_until(lambda: job.progress().counters.success > 4, 30, "some rows are answered")
            wait_until(lambda: client.ledger.claims.count(job.id) == 2, 10, "each process waits for an answer")
            first.kill()
        expire_claims(client)
        return_messages(client)
        archive.faults = Faults()
        with workers.worker(redis_url, tmp_path, "second", concurrency=2):
            job.wait(100)
            outcome = job.outcome()
        assert isinstance(outcome, TransferOutcome)
        assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 40)
        assert found(job) == {row: [study_uid(row - 1)] for row in range(2, 42)}
    assert max(asked(archive).values()) <= 2
    assert sum(asked(archive).values()) <= 42, "at most one row of each process"


def test_a_peer_that_goes_away_and_comes_back_answers_every_row(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """The rows that met the loss are queried again."""
    archive.faults = Faults(delay=0.05)
    job = client.enqueue(batch(archive, patients(40)))
    wait_until(lambda: job.progress().counters.success > 4, 20, "some rows are answered")
    port, held = archive.port, sorted((tmp_path / "held").rglob("*.dcm"))
    archive.stop()
    with TestPACS(archive.ae_title, port=port, instances=held) as again:
        assert answered(job).category is Category.SUCCESS
        assert sum(asked(again).values()) < 40
    assert found(job) == {row: [study_uid(row - 1)] for row in range(2, 42)}


def test_a_peer_that_ends_each_association_after_a_query_answers_every_row(
    client: PacsClient, archive: TestPACS, shared_worker: Process
) -> None:
    """No row needs a second try, and no lost association a pause."""
    archive.faults = Faults(abort_after_find=True)
    before = len(shared_worker.said())
    job = client.enqueue(batch(archive, patients(40)))
    assert answered(job).category is Category.SUCCESS
    # Where a busy machine opens associations slowly, the fleet halves their number, and parts wait their turn.
    retries = re.findall(r"find_batch_part\[.* retry: (Retry in .*)", shared_worker.said()[before:])
    paused = [each for each in retries if "NoLeaseError" not in each]
    assert paused == []
    assert {each.outcome.attempts for each in job.matches() if each.outcome} == {1}
    assert max(asked(archive).values()) == 1
    assert found(job) == {row: [study_uid(row - 1)] for row in range(2, 42)}


@pytest.mark.parametrize("abort_after_find", [False, True])
def test_every_row_is_split_by_its_own_dates(client: PacsClient, *, abort_after_find: bool) -> None:
    """A complete answer is not a warning, even if the PACS cuts answers off and ends associations."""
    studies = [instance(study=number, patient_id=f"P{number % 2}", rows=1) for number in range(220)]
    for number, each in enumerate(studies):
        each.StudyDate = f"{2004 + number % 20}{number % 12 + 1:02}{number % 28 + 1:02}"
    faults = Faults(most_matches=100, abort_after_find=abort_after_find)
    with TestPACS(instances=studies, faults=faults) as archive:
        rows = tuple(FindRow(number=each, keys={"PatientID": f"P{each}"}) for each in range(2))
        job = client.enqueue(FindBatchRequest(remote=archive.remote, rows=rows, split_dates=True))
        assert answered(job).category is Category.SUCCESS
    for row, uids in found(job).items():
        assert sorted(uids) == sorted(study_uid(number) for number in range(row, 220, 2))


def test_a_peer_that_is_not_there_is_told_at_once(client: PacsClient, archive: TestPACS) -> None:
    """The job fails before any part is planned."""
    request = batch(archive, patients(3))
    archive.stop()
    job = client.enqueue(request)
    assert job.wait(20).state is JobState.FAILED
    with pytest.raises(PeerUnreachableError):
        job.outcome()


def test_nothing_that_was_asked_or_found_leaves_the_ledger(redis_url: str, archive: TestPACS, tmp_path: Path) -> None:
    """Queue, Celery's results and the worker's log have neither keys nor matches; all keys of the job expire."""
    archive.faults = Faults(find_statuses={"P2": 0x0122})
    with PacsClient(redis_url) as client:
        rows = tuple(FindRow(number=row, keys={"PatientID": f"P{row}", "PatientName": "*"}) for row in range(1, 21))
        job = client.enqueue(FindBatchRequest(remote=archive.remote, rows=rows))
        queued = everything_but_the_ledger(redis_url)
        assert job.id in queued
        with workers.worker(redis_url, tmp_path, "watched") as worker:
            assert answered(job).counters.success == 19
            wait_until(lambda: "find_batch_finish" in worker.said(), 10, "the chord's body has run")
            log = worker.said()
        stored = everything_but_the_ledger(redis_url)
        assert CHINESE_NAME in json.dumps(list(job.matches()), default=str, ensure_ascii=False)
    assert "celery-task-meta" in stored
    for text in (queued, stored, log):
        assert "PatientName" not in text
        assert '"P1' not in text
        assert "P12" not in text
        assert CHINESE_NAME not in text
        assert study_uid() not in text
    redis = connect(redis_url, 5)
    kept = [part for part in ("", *PARTS) if redis.exists(job_key(job.id, part))]
    assert {"", "bulk", "manifest", "matches"} <= set(kept)
    assert all(int(str(redis.ttl(job_key(job.id, part)))) > 0 for part in kept)
    redis.close()


def test_matches_of_a_job_without_rows_are_refused(client: PacsClient, archive: TestPACS) -> None:
    """So are receipts of a job with rows."""
    job = client.enqueue(batch(archive, ["P1"]))
    assert answered(job)
    with pytest.raises(InvalidRequestError, match="no receipts"):
        job.receipts()
    empty = client.enqueue(FindBatchRequest(remote=archive.remote))
    assert empty.wait(20).state is JobState.FAILED
    with pytest.raises(InvalidRequestError, match="batch has no row"):
        empty.outcome()


def test_the_request_of_a_job_is_whole_for_who_asks(client: PacsClient, archive: TestPACS) -> None:
    """The same key with the same rows gives the same job; with other rows it is refused."""
    job = client.enqueue(batch(archive, ["P1", "P2"]), "key of this test")
    assert job.request() == batch(archive, ["P1", "P2"])
    assert client.enqueue(batch(archive, ["P1", "P2"]), "key of this test").id == job.id
    with pytest.raises(InvalidRequestError, match="another request"):
        client.enqueue(batch(archive, ["P1", "P3"]), "key of this test")
    assert answered(job)
    assert {each.outcome.category for each in job.matches() if each.outcome} == {InstanceCategory.SUCCESS}
