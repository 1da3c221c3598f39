"""Twenty studies at once, while a worker and a receiver die."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from pacs_tasks import Job, PacsClient
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.after_death import return_messages
from tests.support.command import Terminal
from tests.support.dicom_files import data_set, study_uid, write_series
from tests.support.ports import free_port
from tests.support.waiting import wait_until

_STUDIES: Final = 20
#: Instances in each of the two series of a study.
_SERIES: Final = (5, 3)
_TOTAL: Final = _STUDIES * sum(_SERIES)
_RECEIVER: Final = "BATCH"
#: Seconds for everything.
_LIMIT: Final = 150.0


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[TestPACS]:
    """A PACS that holds the studies, and takes its time."""
    held = [
        path
        for study in range(1, _STUDIES + 1)
        for series, count in enumerate(_SERIES, 1)
        for path in write_series(tmp_path / f"held/{study}/{series}", count, study=study, series=series)
    ]
    with TestPACS("ARCHIVE", instances=held, faults=Faults(delay=0.02)) as running:
        yield running


@pytest.mark.timeout(240)
def test_that_a_batch_is_complete_although_a_worker_and_the_receiver_die(
    redis_url: str, archive: TestPACS, tmp_path: Path
) -> None:
    """Every data set is here as the PACS holds it, and each study has one outcome: success."""
    port, output, batch = free_port(), tmp_path / "output", tmp_path / "studies.csv"
    archive.destinations = {_RECEIVER: ("127.0.0.1", port)}
    uids = [study_uid(study) for study in range(1, _STUDIES + 1)]
    batch.write_text("\n".join(["StudyInstanceUID", *uids]) + "\n")
    address = ["--ip", archive.host, "--port", archive.port, "--pacs-ae-title", archive.ae_title]
    command = ["retrieve", "--batch", batch, "--output-dir", output, "--method", "move", "--json", *address]
    with ExitStack() as stack:
        receiver = stack.enter_context(workers.receiver(redis_url, tmp_path, port, _RECEIVER))
        first, _ = [stack.enter_context(workers.worker(redis_url, tmp_path, name)) for name in ("one", "two")]
        client = stack.enter_context(PacsClient(redis_url))
        terminal, began = Terminal(tmp_path, redis_url), time.monotonic()
        popen = stack.enter_context(terminal.starts(*command))
        job = client.job(wait_until(client.jobs, _LIMIT, "the job")[0].job_id)
        _recorded(job, 0.1)
        receiver.kill()
        stack.enter_context(workers.receiver(redis_url, tmp_path, port, _RECEIVER))
        _recorded(job, 0.3)
        first.kill()
        return_messages(client)
        assert not job.progress().state.finished
        result = terminal.finished(popen, began, _LIMIT)
    assert result.code == 0, str(result)
    assert result.json["problems"] == []
    assert [(each["study_uid"], each["category"], each["rows"]) for each in result.json["studies"]] == [
        (uid, "success", [row]) for row, uid in enumerate(uids, 2)
    ]
    assert {each["promised"] for each in result.json["studies"]} == {sum(_SERIES)}
    # An instance that the killed worker had put in place and not yet recorded is found there by the next one.
    assert {each["received"] + each["present"] for each in result.json["studies"]} == {sum(_SERIES)}
    assert {path.stem: data_set(path) for path in output.rglob("*") if path.is_file()} == {
        uid: held.data_set for uid, held in archive.instances.items()
    }


def _recorded(job: Job, share: float) -> None:
    """Wait until so much of all instances has an outcome."""
    wait_until(lambda: job.progress().counters.recorded >= share * _TOTAL, _LIMIT, f"{share:.0%} of the instances")
