"""Twenty studies at once, while a worker and a receiver die."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import data_set, study_uid, write_series
from tests.support.ports import kept_port
from tests.support.waiting import wait_until

_STUDIES: Final = 20
#: Instances in each of the two series of a study.
_SERIES: Final = (5, 3)
_TOTAL: Final = _STUDIES * sum(_SERIES)
_RECEIVER: Final = "BATCH"
#: Seconds for everything, of which a minute goes until the messages of a dead worker come back.
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
    port, output = kept_port(), tmp_path / "output"
    archive.destinations = {_RECEIVER: ("127.0.0.1", port)}
    with ExitStack() as stack:
        receiver = stack.enter_context(workers.receiver(redis_url, tmp_path, port, _RECEIVER))
        first, _ = [stack.enter_context(workers.worker(redis_url, tmp_path, name)) for name in ("one", "two")]
        client = stack.enter_context(PacsClient(redis_url))
        jobs = [
            client.enqueue(
                RetrieveRequest(
                    remote=archive.remote,
                    study_uid=study_uid(study),
                    output_dir=str(output),
                    method=RetrieveMethod.MOVE,
                )
            )
            for study in range(1, _STUDIES + 1)
        ]

        def recorded(least: float) -> bool:
            return sum(job.progress().counters.recorded for job in jobs) >= least * _TOTAL

        wait_until(lambda: recorded(0.2), _LIMIT, "a fifth of the instances")
        receiver.kill()
        stack.enter_context(workers.receiver(redis_url, tmp_path, port, _RECEIVER))
        wait_until(lambda: recorded(0.5), _LIMIT, "half of them")
        first.kill()
        assert not recorded(0.95)
        for job in jobs:
            job.wait(_LIMIT)
            assert job.outcome().category is Category.SUCCESS, job.outcome()
    assert {path.stem: data_set(path) for path in output.rglob("*") if path.is_file()} == {
        uid: held.data_set for uid, held in archive.instances.items()
    }
