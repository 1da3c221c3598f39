"""A cancelled or interrupted retrieve: instances that have arrived count, and only the rest is requested again."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from pacs_tasks import Category, Job, JobState, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import ports, workers
from tests.support.after_death import expire_claims
from tests.support.dicom_files import data_set, study_uid, write_series
from tests.support.waiting import wait_until

NUMBER = 40
#: Instances that the remote delivers while a test waits for some of them.
HALF = NUMBER // 2
pytestmark = [
    # A series that takes a few seconds to come.
    pytest.mark.holds((1, 1, NUMBER), faults=Faults(delay=0.05)),
    pytest.mark.usefixtures("receiver"),
]
BOTH = pytest.mark.parametrize("method", [RetrieveMethod.MOVE, RetrieveMethod.GET])


def enqueued(client: PacsClient, archive: TestPACS, directory: Path, **options: object) -> Job:
    fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(directory), "move_aet": "RECEIVER"}
    return client.enqueue(RetrieveRequest.model_validate({**fields, **options}))


def on_disk(directory: Path) -> dict[str, bytes]:
    return {path.stem: data_set(path) for path in directory.rglob("*.dcm")}


def held(archive: TestPACS) -> dict[str, bytes]:
    return {uid: each.data_set for uid, each in archive.instances.items()}


def asked(archive: TestPACS) -> list[list[str]]:
    """The SOP Instance UIDs of its C-MOVE and C-GET requests, which name no character set; none is the whole series."""
    named = [each.get("SOPInstanceUID") or [] for each in archive.identifiers if "SpecificCharacterSet" not in each]
    return [[each] if isinstance(each, str) else sorted(each) for each in named]


@BOTH
@pytest.mark.parametrize("ignore", [False, True])
def test_what_came_before_a_cancel_counts(
    client: PacsClient, archive: TestPACS, tmp_path: Path, method: RetrieveMethod, ignore: bool
) -> None:
    """Whether or not the remote obeys C-CANCEL; a retry requests the rest by their UIDs."""
    archive.faults = Faults(ignore_cancel=ignore, hold_instances_after=HALF)
    job = enqueued(client, archive, tmp_path / "out", method=method)
    wait_until(lambda: len(on_disk(tmp_path / "out")) > 5, 30, "some instances")
    job.cancel()
    progress = job.wait(15)
    here = on_disk(tmp_path / "out")
    assert progress.state is JobState.CANCELLED
    assert progress.counters.success == len(here)
    assert 5 < len(here) <= HALF
    archive.faults = Faults()
    assert job.retry().wait(30).counters.success == NUMBER
    whole, rest = asked(archive)
    missing = archive.instances.keys() - here.keys()
    assert not whole
    assert missing >= set(rest)
    # An instance on its way to the receiver when the association ended need not come again.
    assert len(missing) - len(rest) <= (method is RetrieveMethod.MOVE)
    assert on_disk(tmp_path / "out") == held(archive)


@BOTH
def test_a_cancel_ends_a_retrieve_that_has_no_end(
    client: PacsClient, archive: TestPACS, tmp_path: Path, method: RetrieveMethod
) -> None:
    """The remote has a few seconds for its final response."""
    archive.faults = Faults(pending_for_ever=True, ignore_cancel=True)
    job = enqueued(client, archive, tmp_path / "out", method=method)
    wait_until(lambda: asked(archive), 30, "the request")
    job.cancel()
    progress = job.wait(15)
    assert (progress.state, progress.counters.recorded) == (JobState.CANCELLED, 0)


@BOTH
def test_a_retrieve_that_is_complete_waits_for_no_final_response(
    client: PacsClient, archive: TestPACS, tmp_path: Path, method: RetrieveMethod
) -> None:
    """A few seconds at most."""
    archive.faults = Faults(never_finish=True)
    job = enqueued(client, archive, tmp_path / "out", method=method)
    assert job.wait(20).counters.success == NUMBER
    assert job.outcome().category is Category.SUCCESS
    assert on_disk(tmp_path / "out") == held(archive)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
@BOTH
def test_a_worker_that_is_killed_loses_what_was_under_way(
    redis_url: str, tmp_path: Path, method: RetrieveMethod
) -> None:
    """The next worker uses complete instances at the receiver or in the output directory, and requests the rest."""
    files, port, out = write_series(tmp_path / "held", NUMBER, rows=2), ports.free_port(), tmp_path / "out"
    (tmp_path / "receiver").mkdir()
    with ExitStack() as stack:
        destinations = {"RECEIVER": ("127.0.0.1", port)}
        archive = stack.enter_context(TestPACS(instances=files, destinations=destinations))
        archive.faults = Faults(hold_instances_after=NUMBER - 10)
        stack.enter_context(workers.receiver(redis_url, tmp_path / "receiver", port, "RECEIVER"))
        client = stack.enter_context(PacsClient(redis_url))
        worker = stack.enter_context(workers.worker(redis_url, tmp_path, concurrency=1))
        job = enqueued(client, archive, out, method=method)
        wait_until(lambda: len(on_disk(out)) > 25, 30, "some instances")
        for child in children(worker.pid):
            os.kill(child, signal.SIGKILL)
        # A PACS that has not noticed it yet would deliver the rest.
        wait_until(lambda: archive.open_associations == 0, 10, "the end of its associations")
        archive.faults = Faults()
        expire_claims(client)
        job.wait(60)
        assert job.outcome().category is Category.SUCCESS
    assert on_disk(out) == held(archive)
    whole, rest = asked(archive)
    assert not whole
    assert len(rest) <= NUMBER - 20


def children(pid: int) -> list[int]:
    """The child processes of a worker."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
