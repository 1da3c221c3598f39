"""Several associations share the files of one part where the PACS is slow; the PACS and the ledger say the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pacs_tasks import Category, JobState, PacsClient, StoreDirectoryRequest, TransferOutcome
from pacs_tasks.client import Job
from pacs_tasks.testing import Faults, TestPACS
from tests.support import ports
from tests.support.dicom_files import UID_ROOT, write_series
from tests.support.waiting import wait_until

FILES = 40
LIMIT = 30.0
#: Seconds in which it responds: several associations are worthwhile, and a busy machine adds little to it.
SLOW = 0.3


def one_part(client: PacsClient, pacs: TestPACS, directory: Path) -> Job:
    write_series(directory, FILES, rows=2)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(directory), files_per_task=FILES)
    return client.enqueue(request)


def assert_each_once(job: Job, pacs: TestPACS) -> None:
    """Each file was sent once, is held, and has its outcome."""
    progress = job.wait(LIMIT)
    assert (progress.state, progress.counters.success) == (JobState.DONE, FILES)
    assert set(Counter(pacs.stores).values()) == {1}
    assert len(pacs.instances) == FILES
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert outcome.category is Category.SUCCESS


def test_a_part_uses_several_associations_with_a_slow_pacs(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    pacs.faults = Faults(delay=SLOW, hold_instances_after=FILES // 2)
    job = one_part(client, pacs, tmp_path)
    wait_until(lambda: len(pacs.stores) > FILES // 2, LIMIT, "two files are on their way at once")
    assert pacs.open_associations > 1
    pacs.faults = Faults(delay=SLOW)
    assert_each_once(job, pacs)


def test_a_near_pacs_that_is_quick_gets_one(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    pacs.faults = Faults(hold_instances_after=FILES // 2)
    job = one_part(client, pacs, tmp_path)
    wait_until(lambda: len(pacs.stores) > FILES // 2, LIMIT, "half of the files")
    assert pacs.open_associations == 1
    pacs.faults = Faults()
    assert_each_once(job, pacs)


def test_what_a_lost_helper_had_taken_is_sent_again(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """The PACS aborts at three requests, whoever sends them; one of the files is refused each time."""
    bad = f"{UID_ROOT}.1.1.{1_000_001 + FILES // 2}"
    pacs.faults = Faults(delay=SLOW, abort_at_instances=[bad])
    job = one_part(client, pacs, tmp_path)
    progress = job.wait(LIMIT)
    assert (progress.counters.success, progress.counters.failed) == (FILES - 1, 1)
    sent = Counter(pacs.stores)
    assert sent.pop(bad) > 1
    assert set(sent.values()) == {1}
    assert len(pacs.instances) == FILES - 1


def test_a_pacs_that_restarts_gets_each_file(client: PacsClient, tmp_path: Path) -> None:
    """All associations are lost at once, with a file on each."""
    with TestPACS(port=ports.free_port(), faults=Faults(delay=SLOW, hold_instances_after=FILES // 2)) as pacs:
        job = one_part(client, pacs, tmp_path)
        wait_until(lambda: len(pacs.stores) > FILES // 2 and pacs.open_associations > 1, LIMIT, "several associations")
        pacs.stop()
        pacs.faults = Faults()
        pacs.start()
        progress = job.wait(LIMIT)
        assert (progress.state, progress.counters.success) == (JobState.DONE, FILES)
        assert len(pacs.instances) == FILES


def test_a_cancelled_part_ends_with_its_helpers(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """What is on its way counts; a retry sends the rest, and nothing twice."""
    pacs.faults = Faults(delay=SLOW, hold_instances_after=FILES // 2)
    job = one_part(client, pacs, tmp_path)
    wait_until(lambda: len(pacs.stores) > FILES // 2 and pacs.open_associations > 1, LIMIT, "several associations")
    job.cancel()
    pacs.faults = Faults(delay=SLOW)
    assert job.wait(LIMIT).state is JobState.CANCELLED
    assert job.progress().counters.success == len(pacs.stores) < FILES
    wait_until(lambda: pacs.open_associations == 0, LIMIT, "no association is left")
    pacs.faults = Faults()
    job.retry()
    assert_each_once(job, pacs)


def test_parts_share_the_one_association_of_a_pacs_that_is_known_to_be_slow(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """A helper that was called before its part had an association would leave none for the part."""
    remote = pacs.remote.model_copy(update={"max_associations": 1})
    pacs.faults = Faults(delay=0.06, association_limit=1)
    for name in ("first", "second"):
        write_series(tmp_path / name, FILES, rows=2)
        directory = str(tmp_path / name)
        job = client.enqueue(StoreDirectoryRequest(remote=remote, directory=directory, files_per_task=FILES // 5))
        progress = job.wait(LIMIT)
        assert (progress.state, progress.counters.success) == (JobState.DONE, FILES)
    assert set(Counter(pacs.stores).values()) == {2}, "each series was sent once by each job"


def test_a_pacs_that_aborts_further_associations_costs_two_tries(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """A few files come later; each arrives."""
    pacs.faults = Faults(delay=SLOW, abort_at_store=FILES // 2)
    job = one_part(client, pacs, tmp_path)
    progress = job.wait(LIMIT)
    assert (progress.state, progress.counters.success, len(pacs.instances)) == (JobState.DONE, FILES, FILES)


def test_who_allows_one_association_gets_one(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    remote = pacs.remote.model_copy(update={"max_associations": 1})
    write_series(tmp_path, FILES, rows=2)
    pacs.faults = Faults(delay=SLOW, association_limit=1)
    job = client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(tmp_path), files_per_task=FILES))
    assert_each_once(job, pacs)
    assert pacs.associations <= 3, "no other one was tried"
