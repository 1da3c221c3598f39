"""Instances that are complete in the output directory are not fetched again; an interrupted retrieve resumes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from pacs_tasks.client import PacsClient
from pacs_tasks.connection import connect
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.manifest import InstanceLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.ledger.receipts import receipts_of
from pacs_tasks.outcome import Category, Counters, InstanceCategory, InstanceOutcome, TransferOutcome
from pacs_tasks.request import RetrieveMethod, RetrieveRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import UID_ROOT, data_set, study_uid, write_series
from tests.support.waiting import wait_until

pytestmark = pytest.mark.holds((1, 1, 5), (1, 2, 3))

CT = "1.2.840.10008.5.1.4.1.1.2"
BY_NUMBER = "{PatientID}/{SeriesNumber}/{InstanceNumber:03}"
#: The keys of a C-MOVE or C-GET; a query has more.
UNIQUE_KEYS = {"QueryRetrieveLevel", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"}


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
    """Both have short receipts; only received instances count as bytes; neither is a problem."""
    request = RetrieveRequest(study_uid=study_uid(), output_dir="/out")
    ledger.open("job", request.task, request)
    ledger.manifest.plan(
        "job", (InstanceLine(f"{UID_ROOT}.{number}", f"{UID_ROOT}.9", CT, study_uid()) for number in range(3)), "a"
    )
    ledger.record("job", 0, _outcome(0, InstanceCategory.PRESENT))
    ledger.record("job", 1, _outcome(1, InstanceCategory.SUCCESS))
    ledger.record("job", 2, _outcome(2, InstanceCategory.PRESENT))
    outcome = ledger.outcome("job")
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.category, outcome.problems, ledger.problems("job")) == (Category.SUCCESS, (), [])
    assert (outcome.counters.present, outcome.counters.success, outcome.counters.bytes) == (2, 1, 100)
    assert outcome.summary()["present"] == 2
    assert [line.outcome for line in Instances(ledger, "job").in_order()] == [
        _outcome(0, InstanceCategory.PRESENT),
        _outcome(1, InstanceCategory.SUCCESS),
        _outcome(2, InstanceCategory.PRESENT),
    ]
    assert [each.category for each in receipts_of(ledger, "job")] == ["present", "success", "present"]


def test_a_retry_leaves_what_was_there(ledger: Ledger) -> None:
    """A retry requests only failed and missing instances."""
    request = RetrieveRequest(study_uid=study_uid(), output_dir="/out")
    ledger.open("job", request.task, request)
    ledger.manifest.plan(
        "job", (InstanceLine(f"{UID_ROOT}.{number}", f"{UID_ROOT}.9", CT, study_uid()) for number in range(2)), "a"
    )
    ledger.record("job", 0, _outcome(0, InstanceCategory.PRESENT))
    ledger.record("job", 1, _outcome(1, InstanceCategory.MISSING))
    assert ledger.reopen("job") == 1
    assert ledger.recorded("job", 0, 2) == {0}
    ledger.record("job", 1, _outcome(1, InstanceCategory.PRESENT))
    with pytest.raises(InvalidRequestError, match="nothing in it failed"):
        ledger.reopen("job")


def _request(archive: TestPACS, directory: Path, layout: str = "", **options: object) -> RetrieveRequest:
    fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(directory), "layout": layout}
    return RetrieveRequest.model_validate({"method": RetrieveMethod.GET, **fields, **options})


def _retrieved(client: PacsClient, request: RetrieveRequest) -> Counters:
    """Retrieve the whole study; return the counters."""
    job = client.enqueue(request)
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.category, outcome.counters.total) == (Category.SUCCESS, 8), outcome
    return outcome.counters


def _asked_to_send(archive: TestPACS) -> list[list[str]]:
    """The instances of each C-GET so far; none for a whole series."""
    asked = [each for each in archive.identifiers if {element.keyword for element in each} <= UNIQUE_KEYS]
    return [str(each.get("SOPInstanceUID", "")).replace("'", "").strip("[]").split(", ") for each in asked]


def _assert_complete(archive: TestPACS, directory: Path) -> None:
    """Every instance lies there once, exact to the byte, and nothing else does."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    assert len(paths) == len(archive.instances)
    assert {str(dcmread(path).SOPInstanceUID): data_set(path) for path in paths} == {
        uid: held.data_set for uid, held in archive.instances.items()
    }


@pytest.mark.parametrize("layout", ["", BY_NUMBER])
def test_what_lies_whole_is_not_fetched_again(
    layout: str, client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """The remote receives queries only; the files do not change, and the report lists them."""
    request = _request(archive, tmp_path / "out", layout)
    assert _retrieved(client, request).success == 8
    asked = len(_asked_to_send(archive))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.dcm")}
    job = client.enqueue(request)
    job.wait(60)
    counters = job.progress().counters
    assert (counters.present, counters.success, counters.bytes) == (8, 0, 0)
    assert len(_asked_to_send(archive)) == asked
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.dcm")} == before
    receipts = list(job.receipts())
    assert {each.category for each in receipts} == {"present"}
    assert {Path(each.path) for each in receipts} == set(before)
    _assert_complete(archive, tmp_path / "out")


@pytest.mark.parametrize("layout", ["", BY_NUMBER])
def test_what_is_cut_off_is_fetched_again_and_replaced(
    layout: str, client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """The remote is asked for its UID alone."""
    request = _request(archive, tmp_path / "out", layout)
    _retrieved(client, request)
    cut = sorted((tmp_path / "out").rglob("*.dcm"))[0]
    uid = str(dcmread(cut).SOPInstanceUID)
    os.truncate(cut, cut.stat().st_size - 1)
    counters = _retrieved(client, request)
    assert (counters.present, counters.success) == (7, 1)
    assert _asked_to_send(archive)[-1] == [uid]
    _assert_complete(archive, tmp_path / "out")


@pytest.mark.parametrize("layout", ["", BY_NUMBER])
def test_overwrite_fetches_everything(layout: str, client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Each instance goes to the same place again."""
    _retrieved(client, _request(archive, tmp_path / "out", layout))
    before = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.dcm")}
    counters = _retrieved(client, _request(archive, tmp_path / "out", layout, overwrite=True))
    assert (counters.present, counters.success) == (0, 8)
    after = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.dcm")}
    assert after.keys() == before.keys()
    _assert_complete(archive, tmp_path / "out")


def test_with_another_layout_it_is_found_wherever_it_lies(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """A renamed file still holds its instance."""
    _retrieved(client, _request(archive, tmp_path / "out"))
    for number, path in enumerate(sorted((tmp_path / "out").rglob("*.dcm"))):
        path.rename(tmp_path / "out" / f"renamed-{number}")
    assert _retrieved(client, _request(archive, tmp_path / "out", BY_NUMBER)).present == 8
    _assert_complete(archive, tmp_path / "out")


def test_a_cancelled_retrieve_goes_on_where_it_was(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Another job into the same directory fetches the rest; each instance comes once in all."""
    archive.faults = Faults(delay=0.2)
    job = client.enqueue(_request(archive, tmp_path / "out"))
    wait_until(lambda: len(list((tmp_path / "out").rglob("*.dcm"))) >= 2, 30, "two instances")
    job.cancel()
    job.wait(30)
    archive.faults = Faults()
    there = len(list((tmp_path / "out").rglob("*.dcm")))
    counters = _retrieved(client, _request(archive, tmp_path / "out"))
    assert counters.present == there >= 2
    assert counters.success == 8 - there
    _assert_complete(archive, tmp_path / "out")


@pytest.mark.parametrize("layout", ["", BY_NUMBER])
def test_a_retrieve_whose_worker_was_killed_goes_on_where_it_was(
    layout: str, client: PacsClient, archive: TestPACS, redis_url: str, tmp_path: Path
) -> None:
    """Even in another fleet: only the directory counts."""
    archive.faults = Faults(delay=0.2)
    with PacsClient(redis_url) as other, workers.worker(redis_url, tmp_path, concurrency=1) as worker:
        other.enqueue(_request(archive, tmp_path / "out", layout))
        wait_until(lambda: len(list((tmp_path / "out").rglob("*.dcm"))) >= 2, 30, "two instances")
        worker.kill()
    archive.faults = Faults()
    there = len(list((tmp_path / "out").rglob("*.dcm")))
    counters = _retrieved(client, _request(archive, tmp_path / "out", layout))
    assert counters.present == there >= 2
    for path in (tmp_path / "out").rglob(".*.part"):
        path.unlink()
    _assert_complete(archive, tmp_path / "out")


def test_many_files_are_looked_at_in_seconds(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """A directory of 3,000 others is read once for the job; the limit leaves room for a busy machine."""
    other = write_series(tmp_path / "other", 1, study=9)[0]
    (tmp_path / "out").mkdir()
    for number in range(3_000):
        (tmp_path / "out" / f"{number}.dcm").hardlink_to(other)
    started = time.monotonic()
    assert _retrieved(client, _request(archive, tmp_path / "out", BY_NUMBER)).success == 8
    assert time.monotonic() - started < 15
