"""A worker process dies while it retrieves counted instances: each takes one line of the manifest."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest, TransferOutcome
from pacs_tasks.dimse.files import storage
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.after_death import expire_claims
from tests.support.dicom_files import data_set, study_uid, write_series
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.waiting import wait_until

NUMBER = 50
LIMIT = 60


def _child(worker: Process) -> int:
    (pid,) = (int(each) for each in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split())
    return pid


@pytest.mark.parametrize("method", [RetrieveMethod.MOVE, RetrieveMethod.GET])
def test_a_death_neither_loses_nor_doubles_what_is_counted(
    redis_url: str, tmp_path: Path, method: RetrieveMethod
) -> None:
    """The process is killed after half of the instances, and another one resumes."""
    port, output = free_port(), tmp_path / "output"
    held = write_series(tmp_path / "held", NUMBER)
    faults = Faults(no_image_level=0xC000, hold_instances_after=NUMBER - 10)
    with (
        TestPACS(instances=held, destinations={"COUNTED": ("127.0.0.1", port)}, faults=faults) as pacs,
        workers.receiver(redis_url, tmp_path, port, "COUNTED"),
        workers.worker(redis_url, tmp_path, concurrency=1) as worker,
        PacsClient(redis_url) as client,
    ):
        fields = {"remote": pacs.remote, "study_uid": study_uid(), "output_dir": str(output), "method": method}
        job = client.enqueue(RetrieveRequest.model_validate(fields))
        wait_until(lambda: len(list(output.rglob("*.dcm"))) >= NUMBER // 2, LIMIT, "half of the instances")
        os.kill(_child(worker), signal.SIGKILL)
        if method is RetrieveMethod.GET:
            # The kill may, but need not, have struck amid a file.
            storage.unfinished_path(output, f"{job.id}-0").write_bytes(b"")
        assert not job.progress().state.finished
        pacs.faults = Faults(no_image_level=0xC000)
        expire_claims(client)
        job.wait(LIMIT)
        outcome = job.outcome()
        instances = [each.sop_instance_uid for each in job.instances()]
        expected = {uid: each.data_set for uid, each in pacs.instances.items()}
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, NUMBER), outcome
    assert sorted(instances) == sorted(expected)
    assert {path.stem: data_set(path) for path in output.rglob("*") if path.is_file()} == expected
