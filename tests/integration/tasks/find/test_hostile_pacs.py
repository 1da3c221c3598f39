"""A hostile or broken PACS answers a query without end or sense: memory and time of the worker stay bounded.

What came before a limit is kept, and the outcome says that there may be more, whose fault it is and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pacs_tasks import (
    Category,
    FindBatchRequest,
    FindOutcome,
    FindRequest,
    Job,
    JobState,
    PacsClient,
    RetrieveRequest,
    TransferOutcome,
)
from pacs_tasks.ae import RemoteAE
from pacs_tasks.outcome import Doubt, InstanceCategory
from pacs_tasks.request import AnyRequest, QueryModel
from pacs_tasks.testing import Faults, TestPACS
from tests.support import hostile, scripted, workers
from tests.support.cost import bounded as bounded_cost
from tests.support.cost import memory
from tests.support.dicom_files import study_uid, write_series
from tests.support.processes import Process
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured on Linux")

MATCHES, BYTES = 4_000, 1 << 24
#: Bytes that a worker may grow by, and seconds that a job may take; a tenth of both is usual.
GROWTH, LIMIT = 200 << 20, 60


#: Adds a figure to the summary of the run.
Report = Callable[[str, object], None]


class Bounded(NamedTuple):
    """A worker of low limits, and its memory in bytes before the first hostile answer."""

    client: PacsClient
    process: Process
    before: int
    report: Report

    def ended(self, request: AnyRequest) -> Job:
        """Wait for the end of a job, and check what it cost."""
        with bounded_cost(self.process, LIMIT, GROWTH, self.report):
            job = self.client.enqueue(request)
            job.wait(LIMIT)
        assert memory(self.process, "VmHWM") - self.before < GROWTH
        return job

    def found(self, request: FindRequest) -> FindOutcome:
        outcome = self.ended(request).outcome()
        assert isinstance(outcome, FindOutcome)
        return outcome


@pytest.fixture(scope="module")
def limited(
    redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PacsClient, Process, int]]:
    url, directory = redis_process.fresh_url(), tmp_path_factory.mktemp("bounded")
    limits = {"PACS_TASKS_MAX_MATCHES": str(MATCHES), "PACS_TASKS_MAX_ANSWER_BYTES": str(BYTES)}
    with (
        workers.worker(url, directory, "bounded", concurrency=1, pool="solo", **limits) as process,
        PacsClient(url) as client,
        TestPACS() as pacs,
    ):
        # What every query needs is loaded.
        client.enqueue(FindRequest(remote=pacs.remote)).wait(LIMIT)
        yield client, process, memory(process)


@pytest.fixture
def bounded(limited: tuple[PacsClient, Process, int], record_property: Report) -> Bounded:
    return Bounded(*limited, record_property)


CASES = {
    "matches without end": (hostile.answering(hostile.endless), MATCHES, f"more than {MATCHES} matches"),
    "responses without matches": (hostile.without_matches, MATCHES, f"more than {MATCHES} matches"),
    "a match without an end": (hostile.without_an_end, 0, "a match of more than 4194304 bytes"),
    "1.5 million elements": (hostile.answering(hostile.of_elements(1_500_000)), 1, "a match of more than"),
    "400,000 elements": (hostile.answering(hostile.of_elements(400_000)), 1, "more than 10000 elements"),
    "100,000 sequences deep": (hostile.answering(hostile.of_depth(100_000)), 1, "within each other"),
    "400 sequences deep": (hostile.answering(hostile.of_depth(400)), 1, "more than 16 sequences within each other"),
    "huge values": (hostile.answering(hostile.of_bytes(3_000_000, 100)), 5, f"more than {BYTES} bytes of matches"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_answer_is_cut_off(bounded: Bounded, name: str) -> None:
    """The matches before it are kept: an incomplete answer, by the fault of the remote."""
    script, kept, why = CASES[name]
    with scripted.peer(script) as remote:
        outcome = bounded.found(FindRequest(remote=remote, timeout=10))
    assert (outcome.category, outcome.doubts) == (Category.PARTIAL, (Doubt.CUT_OFF,))
    assert len(outcome.matches) == kept
    assert any("SCRIPTED" in each and why in each for each in outcome.remarks), outcome.remarks
    assert not any("defect" in each for each in (*outcome.remarks, outcome.status.meaning))


def test_a_remote_has_limits_of_its_own(bounded: Bounded) -> None:
    """A few are enough for one, more are right for another, and a limit of the request goes beyond both."""
    script = hostile.answering(hostile.endless)
    with scripted.peer(script) as remote:
        few = RemoteAE.model_validate({**remote.model_dump(), "max_matches": 10})
        assert len(bounded.found(FindRequest(remote=few)).matches) == 10
        more = bounded.found(FindRequest(remote=few, limit=20))
        assert (len(more.matches), more.limit_hit) == (20, True)


def test_long_answers_go_to_the_ledger_in_pieces(bounded: Bounded) -> None:
    """A query and the rows of a batch have all their matches, in order."""
    size, number = 300_000, 9
    with scripted.peer(hostile.answering(hostile.of_bytes(size, number))) as remote:
        outcome = bounded.found(FindRequest(remote=remote))
        rows = tuple({"number": row, "keys": {"PatientID": str(row)}} for row in range(3))
        batch = FindBatchRequest.model_validate({"remote": remote, "rows": rows})
        job = bounded.ended(batch)
        answers = list(job.matches())
    for matches in (outcome.matches, *(each.matches for each in answers)):
        assert [match["00100020"]["Value"] for match in matches] == [[f"VALUE {each}"] for each in range(number)]
    assert (outcome.category, outcome.summary()["matches"]) == (Category.SUCCESS, number)
    assert [each.row for each in answers] == [0, 1, 2]


def test_a_row_of_a_batch_is_cut_off_alone(bounded: Bounded) -> None:
    """Its matches are kept with a warning, and the next row is queried."""
    with scripted.peer(hostile.answering(hostile.endless)) as remote:
        rows = tuple({"number": row, "keys": {"PatientID": str(row)}} for row in range(2))
        job = bounded.ended(FindBatchRequest.model_validate({"remote": remote, "rows": rows}))
        answers = list(job.matches())
    for each in answers:
        assert each.outcome is not None
        assert each.outcome.category is InstanceCategory.WARNING
        assert f"more than {MATCHES} matches" in each.outcome.reason
        assert len(each.matches) == MATCHES


@pytest.mark.parametrize("split", [False, True])
def test_a_worklist_and_a_split_query_are_cut_off_too(bounded: Bounded, split: bool) -> None:
    """A split query ends with its first answer that exceeds a limit."""
    model = None if split else QueryModel.WORKLIST
    with scripted.peer(hostile.answering(hostile.endless)) as remote:
        outcome = bounded.found(FindRequest(remote=remote, query_model=model, split_dates=split))
    assert (outcome.category, outcome.doubts, outcome.queries) == (Category.PARTIAL, (Doubt.CUT_OFF,), 1)


def test_a_huge_comment_is_shortened(bounded: Bounded) -> None:
    """An Error Comment has 64 characters (PS3.7 annex E)."""
    script = hostile.answering(lambda: iter(()), final=0xA700, comment="X" * 60_000)
    with scripted.peer(script) as remote:
        outcome = bounded.found(FindRequest(remote=remote))
    assert outcome.category is Category.FAILED
    assert 64 < len(outcome.status.comment) < 300


def test_what_cannot_be_listed_for_matches_is_not_retrieved(bounded: Bounded, tmp_path: Path) -> None:
    """The list of a retrieve has an end: the job fails, and names the remote and the limit."""
    with scripted.peer(hostile.answering(hostile.endless)) as remote:
        request = RetrieveRequest(remote=remote, study_uid="1.2.3", output_dir=str(tmp_path / "out"), method="get")
        job = bounded.ended(request)
        assert job.progress().state is JobState.FAILED
        with pytest.raises(Exception, match=f"SCRIPTED .* more than {MATCHES} matches"):
            job.outcome()


@pytest.mark.parametrize("count", [MATCHES + 1, 1_000_000, 999_999_999_999])
def test_an_absurd_count_is_ignored_and_said(bounded: Bounded, tmp_path: Path, count: int) -> None:
    """What the remote lists is retrieved, with a warning; no line of the manifest is made of a mistake."""
    paths = write_series(tmp_path / "held", 3)
    with TestPACS(instances=paths, faults=Faults(related_instances=count)) as pacs:
        request = RetrieveRequest(
            remote=pacs.remote, study_uid=study_uid(), output_dir=str(tmp_path / "out"), method="get"
        )
        outcome = bounded.ended(request).outcome()
    assert isinstance(outcome, TransferOutcome)
    (study,) = outcome.studies
    assert (study.category, study.received, study.promised) == (Category.WARNING, 3, 3)
    assert f"counts {count} instances, which is ignored" in study.reason


def test_faults_of_a_test_pacs_are_cut_off(bounded: Bounded, tmp_path: Path) -> None:
    """The same with a PACS that speaks DICOM: TestPACS has these faults for users' tests."""
    paths = write_series(tmp_path / "held", 2)
    with TestPACS(instances=paths) as pacs:
        for faults, why in (
            (Faults(match_elements=10_001), "more than 10000 elements"),
            (Faults(match_depth=20), "within each other"),
            (Faults(match_bytes=5_000_000), "bytes"),
            (Faults(matches_without_end=True), "more than 50 matches"),
        ):
            pacs.faults = faults
            remote = RemoteAE.model_validate({**pacs.remote.model_dump(), "max_matches": 50})
            outcome = bounded.found(FindRequest(remote=remote))
            assert (outcome.category, outcome.doubts) == (Category.PARTIAL, (Doubt.CUT_OFF,)), why
            assert why in outcome.remarks[-1]
