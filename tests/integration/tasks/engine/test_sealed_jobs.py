"""Jobs of a fleet with keys: workers without the key, keys that change, values that were changed, plain jobs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from pacs_tasks import (
    EchoRequest,
    JobState,
    MissingKeyError,
    PacsClient,
    PlainRecordError,
    RetrieveRequest,
    SealingError,
    StoreDirectoryRequest,
    TransferOutcome,
)
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.ledger.seals import rotate
from pacs_tasks.sealing import new_key
from pacs_tasks.settings import Settings
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.command import PACS_TASKS, Terminal
from tests.support.dicom_files import study_uid, write_many, write_series
from tests.support.ports import free_port
from tests.support.waiting import wait_until

OLD, NEW = new_key(), new_key()


def client_of(redis_url: str, *keys: str) -> PacsClient:
    return PacsClient(redis_url, Settings(encryption_keys=",".join(keys) or None))


def test_a_worker_without_the_key_leaves_the_job_to_others(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """It says what is missing, and the job says so too; nothing of the job is lost."""
    files = write_series(tmp_path / "files", 5)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=1)
    with (
        client_of(redis_url, OLD) as client,
        workers.worker(redis_url, tmp_path, "lacking", PACS_TASKS_ENCRYPTION_KEYS=NEW) as lacking,
    ):
        job = client.enqueue(request)
        wait_until(lambda: "is left to other workers" in lacking.said(), 30, "the worker without the key to say so")
        progress = wait_until(lambda: (found := job.progress()).waiting_reason and found, 10, "the reason to wait")
        assert progress
        assert "Add the key to PACS_TASKS_ENCRYPTION_KEYS" in progress.waiting_reason
        assert not progress.state.finished
        with workers.worker(redis_url, tmp_path, "having", PACS_TASKS_ENCRYPTION_KEYS=OLD):
            job.wait(60)
        assert job.outcome().counters.success == len(files) == len(pacs.instances)
        assert lacking.said().count("is left to other workers") == 1, "however often the message came again"
        with client_of(redis_url, NEW) as other:
            # State and counters are there; what is private is not.
            assert other.jobs()[0].state is JobState.DONE
            with pytest.raises(MissingKeyError):
                list(other.job(job.id).receipts())


def test_keys_change_while_a_job_goes_on(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Afterwards nobody needs the old key."""
    write_series(tmp_path / "files", 6)
    pacs.faults = Faults(hold_instances_after=2)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=1)
    with (
        client_of(redis_url, OLD) as before,
        workers.worker(redis_url, tmp_path, PACS_TASKS_ENCRYPTION_KEYS=f"{NEW},{OLD}"),
    ):
        job = before.enqueue(request)
        ended = before.enqueue(EchoRequest(remote=pacs.remote))
        wait_until(lambda: len(pacs.stores) > 2, 30, "the job to be at work")
        terminal = Terminal(tmp_path, redis_url, (("PACS_TASKS_ENCRYPTION_KEYS", f"{NEW},{OLD}"),), PACS_TASKS)
        done = terminal.run("--json", "config", "rotate-keys")
        assert done.json == {"rotated": 2, "current": 0, "plain": 0, "missing": 0, "exit_code": 0}
        pacs.faults = Faults()
        job.wait(60)
        ended.wait(60)
    with client_of(redis_url, NEW) as after:
        assert cast(TransferOutcome, after.job(job.id).outcome()).counters.success == 6
        assert {each.study_uid for each in after.job(job.id).receipts()} == {study_uid()}
        assert rotate(after.ledger.client).current == 2
        with client_of(redis_url, OLD) as old:
            assert rotate(old.ledger.client).missing == 2


def test_two_workers_and_a_receiver_with_other_first_keys(redis_url: str, tmp_path: Path) -> None:
    """The receiver recognises what is expected whichever key is first where; two retrieves of a series do not mix."""
    port = free_port()
    held = write_many(tmp_path / "held", (1, 1, 4))
    with (
        TestPACS(instances=held, destinations={"RECEIVER": ("127.0.0.1", port)}) as archive,
        workers.receiver(redis_url, tmp_path, port, "RECEIVER", PACS_TASKS_ENCRYPTION_KEYS=f"{OLD},{NEW}"),
        workers.worker(redis_url, tmp_path, PACS_TASKS_ENCRYPTION_KEYS=f"{NEW},{OLD}"),
        client_of(redis_url, OLD, NEW) as client,
    ):
        request = RetrieveRequest(
            remote=archive.remote, study_uid=study_uid(), output_dir=str(tmp_path / "out"), method="move"
        )
        job = client.enqueue(request)
        job.wait(60)
        outcome = job.outcome()
        assert (outcome.category, outcome.counters.success) == ("success", 4)
        assert outcome.studies[0].ways == ("C-MOVE",)


def test_a_value_that_was_changed_fails_its_job(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Two lines of a manifest that change places, so that the wrong file would be sent: neither is."""
    write_series(tmp_path / "files", 2)
    pacs.faults = Faults(association_limit=0)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=1)
    with client_of(redis_url, OLD) as client, workers.worker(redis_url, tmp_path, PACS_TASKS_ENCRYPTION_KEYS=OLD):
        job = client.enqueue(request)
        manifest, redis = job_key(job.id, "manifest"), client.ledger.client
        wait_until(lambda: client.ledger.manifest.planned(job.id), 30, "the manifest")
        first, second = cast("list[str]", redis.lrange(manifest, 0, 1))
        redis.lset(manifest, 0, second)
        redis.lset(manifest, 1, first)
        pacs.faults = Faults()
        job.wait(60)
        with pytest.raises(SealingError, match="was changed"):
            job.outcome()
    assert not pacs.stores


@pytest.mark.parametrize("accept", [False, True])
def test_plain_jobs_are_refused_unless_allowed(redis_url: str, pacs: TestPACS, tmp_path: Path, *, accept: bool) -> None:
    """A client without a key; the error says what to set."""
    allowed = str(accept).lower()
    with (
        client_of(redis_url) as client,
        workers.worker(redis_url, tmp_path, PACS_TASKS_ENCRYPTION_KEYS=OLD, PACS_TASKS_ACCEPT_PLAIN=allowed),
    ):
        job = client.enqueue(EchoRequest(remote=pacs.remote))
        job.wait(30)
        if accept:
            assert job.outcome().category == "success"
            return
        with pytest.raises(PlainRecordError, match="Set the same keys where it was enqueued"):
            job.outcome()
    assert pacs.associations == 0


def test_a_worker_without_a_key_says_that_redis_is_in_clear(redis_url: str, tmp_path: Path) -> None:
    """Once, with what to do."""
    with workers.worker(redis_url, tmp_path, concurrency=1) as worker:
        wait_until(lambda: "holds patient data in clear" in worker.said(), 10, "the worker to say so")
    assert worker.said().count("Redis holds patient data in clear: PACS_TASKS_ENCRYPTION_KEYS is not set.") == 1


def test_a_new_key_is_one_line(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, None, entry=PACS_TASKS)
    keys = {terminal.run("config", "new-key").stdout.strip() for _ in range(2)}
    assert len(keys) == 2
    assert all(Settings(encryption_keys=key).keys == (key,) for key in keys)
    assert terminal.run("config", "rotate-keys").code == 2
