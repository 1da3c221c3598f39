"""A job is cancelled and retried at once: answers received count, no file goes twice, and each job ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pacs_tasks import InvalidRequestError, Job, JobState, PacsClient, StoreDirectoryRequest
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Silence, TestPACS
from tests.support.dicom_files import write_series
from tests.support.waiting import wait_until

FILES = 80
#: The remote answers for so many files before a cancel. After it, each of two tasks finishes at most its part.
ANSWERED = FILES - 30

Moment = Callable[[Job, TestPACS], object]


def _retried(job: Job) -> bool:
    try:
        job.retry()
    except InvalidRequestError:
        return False
    return True


@pytest.mark.parametrize(
    ("moment", "files_per_task"),
    [
        pytest.param(lambda _, __: True, 1, id="queued"),
        pytest.param(lambda job, _: job.state is JobState.RUNNING, 7, id="planning"),
        pytest.param(lambda _, pacs: pacs.stores, 1, id="the first file"),
        pytest.param(lambda job, _: job.progress().counters.success > FILES - 40, 7, id="the last parts"),
    ],
)
def test_a_cancel_and_two_retries_at_once_send_each_file_once(
    client: PacsClient, pacs: TestPACS, tmp_path: Path, moment: Moment, files_per_task: int
) -> None:
    """Parts of the first attempt are still queued. One retry is accepted, the other refused."""
    write_series(tmp_path, FILES, rows=2)
    pacs.faults = Faults(delay=0.005, hold_instances_after=ANSWERED)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), files_per_task=files_per_task)
    job = client.enqueue(request)
    wait_until(lambda: moment(job, pacs), 20, "the moment")
    job.cancel()
    pacs.faults = Faults(delay=0.005)
    progress = job.wait(15)
    assert progress.state is JobState.CANCELLED
    assert progress.counters.success == len(pacs.stores) < FILES
    # The job must not end before both retries have been tried.
    pacs.faults = Faults(hold_instances_after=0)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(_retried, [job, job])) == [False, True]
    pacs.faults = Faults()
    assert job.wait(30).state is JobState.DONE
    assert job.progress().counters.success == len(pacs.stores) == len(pacs.instances) == FILES


def test_a_part_that_waits_for_its_next_try_ends_with_a_cancel(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """No worker holds it, so the job ends at once."""
    write_series(tmp_path, 5)
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA700})
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), files_per_task=5))
    wait_until(lambda: len(pacs.stores) >= 5, 20, "the first try")
    job.cancel()
    assert job.wait(15).state is JobState.CANCELLED
    pacs.faults = Faults()
    assert job.retry().wait(20).counters.success == len(pacs.instances) == 5


def test_what_is_on_its_way_when_a_cancel_comes_is_counted(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The remote has the file and answers late; the retry does not send it again."""
    write_series(tmp_path, 3)
    pacs.faults = Faults(hold_instances_after=0)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), files_per_task=3))
    wait_until(lambda: pacs.stores, 20, "the first file is on its way")
    job.cancel()
    # A worker checks for a cancel every 0.4 s, and then gives the remote 2 s.
    pacs.faults = Faults(delay=0.8)
    assert job.wait(15).counters.success == len(pacs.stores) == 1
    pacs.faults = Faults()
    assert job.retry().wait(10).counters.success == len(pacs.stores) == 3


def test_a_cancel_does_not_wait_for_a_silent_peer(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The file does not count, because nobody knows whether the remote has it."""
    write_series(tmp_path, 3)
    pacs.faults = Faults(silence=Silence.STORE)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), files_per_task=3))
    wait_until(lambda: pacs.open_associations and pacs.associations > 1, 20, "the first file is on its way")
    job.cancel()
    progress = job.wait(15)
    assert (progress.state, progress.counters.recorded) == (JobState.CANCELLED, 0)
