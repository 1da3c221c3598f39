"""Files and lists from the field: odd names, links, duplicates, invalid UIDs. Each has its own outcome."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pydicom import DataElement
from pydicom.config import IGNORE

from pacs_tasks import (
    Category,
    InstanceCategory,
    Job,
    JobState,
    PacsClient,
    RetrieveMethod,
    RetrieveRequest,
    StoreDirectoryRequest,
    StoreRequest,
    TransferOutcome,
)
from pacs_tasks.testing import Faults, TestPACS
from tests.support.dicom_files import instance, study_uid, write, write_series
from tests.support.waiting import wait_until

LIMIT = 20


def transferred(job: Job, limit: float = LIMIT) -> TransferOutcome:
    """The outcome of a job, once it has ended."""
    job.wait(limit)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def sent(client: PacsClient, pacs: TestPACS, directory: Path) -> TransferOutcome:
    return transferred(client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(directory))))


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_a_name_that_is_no_unicode_is_sent_like_any_other(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """As a file and in a directory; a question mark replaces what cannot be displayed."""
    first, second = write_series(tmp_path, 2)
    first.rename(tmp_path / os.fsdecode(b"CT\xff\xfe.dcm"))
    below = tmp_path / os.fsdecode(b"s\xe9rie")
    below.mkdir()
    second.rename(below / "2.dcm")
    (tmp_path / os.fsdecode(b"text\xff")).write_text("no DICOM")
    outcome = sent(client, pacs, tmp_path)
    assert (outcome.counters.success, outcome.counters.skipped) == (2, 1)
    assert len(pacs.instances) == 2


def test_files_of_one_instance_have_an_outcome_each(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Two copies of one file are two files."""
    write(instance(1), tmp_path / "a.dcm")
    write(instance(1), tmp_path / "b.dcm")
    outcome = sent(client, pacs, tmp_path)
    assert (outcome.counters.success, len(pacs.stores), len(pacs.instances)) == (2, 2, 1)


def test_links_and_pipes_hold_up_nothing(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """A link to a directory above, a link to itself, and a pipe without a writer."""
    write_series(tmp_path / "a", 2)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    os.mkfifo(tmp_path / "a" / "pipe")
    outcome = sent(client, pacs, tmp_path)
    assert (outcome.counters.success, len(pacs.stores)) == (2, 2)
    assert outcome.counters.recorded == outcome.counters.total == 4


def test_a_pipe_alone_is_told(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The job fails and does not wait for a writer."""
    os.mkfifo(tmp_path / "pipe")
    job = client.enqueue(StoreRequest(remote=pacs.remote, path=str(tmp_path / "pipe")))
    assert job.wait(LIMIT).state is JobState.FAILED


def test_a_file_that_silences_the_peer_is_tried_again_with_less_patience(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """Others pass meanwhile, and the progress says what it waits for."""
    paths = write_series(tmp_path, 12)
    silencing = f"{study_uid()}.1.1000001"
    pacs.faults = Faults(silent_at_instances=[silencing])
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), files_per_task=12, timeout=9)
    job = client.enqueue(request)
    wait_until(lambda: job.progress().retrying == 1, LIMIT, "the file waits for its second try")
    wait_until(lambda: job.progress().counters.success == len(paths) - 1, LIMIT, "the others pass")
    outcome = transferred(job, 2 * LIMIT)
    assert "within 5 s" in outcome.problems[0].reason
    assert (outcome.counters.failed, pacs.stores.count(silencing), job.progress().retrying) == (1, 2, 0)


def retrieved(client: PacsClient, archive: TestPACS, directory: Path, limit: float = LIMIT) -> TransferOutcome:
    request = RetrieveRequest(
        remote=archive.remote, study_uid=study_uid(), output_dir=str(directory), method=RetrieveMethod.GET
    )
    return transferred(client.enqueue(request), limit)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom warns the test PACS
@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID"])
def test_a_list_with_what_is_no_uid_holds_up_nothing_else(client: PacsClient, tmp_path: Path, keyword: str) -> None:
    """An invalid UID from a hostile remote fails, and no file is named after it."""
    held = [instance(1), instance(2), instance(3, series=2)]
    held[2][keyword] = DataElement(keyword, "UI", "../../../evil", validation_mode=IGNORE)
    with TestPACS(instances=held) as archive:
        outcome = retrieved(client, archive, tmp_path / "out")
    assert outcome.counters.success == 2, outcome
    assert [each.category for each in outcome.problems] == [InstanceCategory.FAILED]
    assert "A UID breaks the rules" in outcome.problems[0].reason
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_series_of_more_than_a_slice_comes_whole(client: PacsClient, tmp_path: Path) -> None:
    """Each slice is fetched by its UIDs."""
    held = write_series(tmp_path / "held", 503, rows=2)
    with TestPACS(instances=held) as archive:
        # An archive in Python needs some milliseconds for each.
        outcome = retrieved(client, archive, tmp_path / "out", 120)
        assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 503)
        asked = [
            each for each in archive.identifiers if each.QueryRetrieveLevel == "IMAGE" and each.get("SOPInstanceUID")
        ]
        assert sorted(len(each.SOPInstanceUID) for each in asked) == [3, 500]


def test_what_came_and_could_not_be_kept_says_why(client: PacsClient, tmp_path: Path) -> None:
    """The remote did deliver: the error points to the output directory."""
    paths = write_series(tmp_path / "held", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / study_uid()).write_text("a file is in the way")
    with TestPACS(instances=paths) as pacs:
        request = RetrieveRequest(
            remote=pacs.remote, study_uid=study_uid(), output_dir=str(tmp_path / "out"), method=RetrieveMethod.GET
        )
        outcome = transferred(client.enqueue(request))
    assert (outcome.category, outcome.counters.failed) == (Category.FAILED, 2)
    assert all("could not be kept (cannot write:" in each.reason for each in outcome.problems), outcome.problems
    assert {each.subject for each in outcome.problems} == {each.sop_instance_uid for each in outcome.problems}
