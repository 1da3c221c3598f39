"""Instances that a remote did not deliver are requested again by their UIDs, and no others."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom import Dataset

from pacs_tasks import Category, Job, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import UID_ROOT, data_set, study_uid
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.holds((1, 1, 5))

GONE = [f"{UID_ROOT}.1.1.1000002", f"{UID_ROOT}.1.1.1000004"]


def retrieve(client: PacsClient, archive: TestPACS, output: Path, **options: object) -> Job:
    fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(output), **options}
    return client.enqueue(RetrieveRequest.model_validate(fields))


def asked(archive: TestPACS) -> list[Dataset]:
    """The identifiers of its C-MOVE and C-GET requests; the planner's queries are before them, one for each level."""
    return archive.identifiers[3:]


def lists(archive: TestPACS) -> list[list[str]]:
    """The SOP Instance UIDs of these requests; none stands for the whole series."""
    named = [each.get("SOPInstanceUID") or [] for each in asked(archive)]
    return [[each] if isinstance(each, str) else list(each) for each in named]


def test_what_was_missing_is_asked_for_again(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """The remote cannot send two of five at first."""
    # The remote holds requests after the queries of the planner and the first C-GET, until its fault ends.
    archive.faults = Faults(unsent=GONE, hold_requests_after=4)
    job = retrieve(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    wait_until(lambda: asked(archive), 30, "the request")
    archive.faults = Faults()
    job.wait(30)
    assert job.outcome().category is Category.SUCCESS
    assert [sorted(each.SOPInstanceUID) for each in asked(archive)[1:]] == [GONE]
    assert {path.stem: data_set(path) for path in (tmp_path / "out").rglob("*.dcm")} == {
        uid: held.data_set for uid, held in archive.instances.items()
    }


def test_what_never_comes_is_asked_for_once_more(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Then it is missing: the remote receives no third request."""
    archive.faults = Faults(lost=GONE)
    job = retrieve(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    job.wait(30)
    assert job.progress().counters.missing == 2
    assert len(asked(archive)) == 2


def test_a_receiver_that_died_is_waited_for(
    client: PacsClient, shared_redis_url: str, archive: TestPACS, tmp_path: Path
) -> None:
    """The remote cannot deliver to it, and receives another request when it is back."""
    directory, port = tmp_path / "receiver", free_port()
    directory.mkdir()
    archive.destinations = {"DIES": ("127.0.0.1", port)}
    with ExitStack() as stack:
        stack.enter_context(workers.receiver(shared_redis_url, directory, port, "DIES")).kill()
        job = retrieve(client, archive, tmp_path / "out", method=RetrieveMethod.MOVE, move_aet="DIES")
        wait_until(lambda: asked(archive), 30, "the request")
        stack.enter_context(workers.receiver(shared_redis_url, directory, port, "DIES"))
        job.wait(30)
        assert job.outcome().category is Category.SUCCESS
        assert len(list((tmp_path / "out").rglob("*.dcm"))) == 5


def test_a_peer_that_answers_the_first_of_a_list_is_asked_one_by_one(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """Within one attempt, each request brings one more."""
    archive.faults = Faults(drop_every=1, first_uid_only=True)
    job = retrieve(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    job.wait(30)
    assert job.outcome().category is Category.SUCCESS
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 5
    assert [len(each) for each in lists(archive)] == [0, 5, 2, 1, 2, 1]


def test_success_with_nothing_done_is_asked_again(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """A busy PACS may answer so; the next request succeeds."""
    archive.faults = Faults(zero_suboperations=1)
    job = retrieve(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    job.wait(30)
    assert job.outcome().category is Category.SUCCESS
    assert [len(each) for each in lists(archive)] == [0, 5]
