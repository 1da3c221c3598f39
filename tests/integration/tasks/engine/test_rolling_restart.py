"""A fleet whose workers are replaced, one after the other, by those of another version loses nothing."""

from __future__ import annotations

import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

from pacs_tasks import Category, PacsClient, StoreDirectoryRequest, TransferOutcome
from pacs_tasks.request import EchoRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import write_series
from tests.support.processes import ROOT, Process
from tests.support.waiting import wait_until

FILES, SOME = 200, 10


def _older(directory: Path) -> Path:
    """Copy the packages as they were before an echo could ask for services: they refuse a request with that field."""
    for name in ("pacs_tasks", "workers"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    base, task = directory / "pacs_tasks/request/base.py", directory / "pacs_tasks/tasks/preflight.py"
    base.write_text(base.read_text().replace("    services: bool | None = None\n", ""))
    task.write_text(task.read_text().replace("bool(request.services)", "False"))
    assert "services: bool" not in base.read_text()
    assert "request.services" not in task.read_text()
    return directory


def _replace(old: Process, pacs: TestPACS) -> None:
    """End a worker amid its work: the PACS answers what it holds once the worker knows."""
    old.popen.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in old.said(), 30, "the worker to know")
    pacs.faults = Faults(hold_instances_after=len(pacs.stores) + SOME)
    wait_until(lambda: not old.running(), 30, "the worker to end")
    assert "Traceback" not in old.said()


def test_a_rolling_restart_loses_nothing(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Two old workers are replaced while a job runs: each new one starts before the next old one ends."""
    write_series(tmp_path / "files", FILES, rows=2)
    old = str(_older(tmp_path / "old"))
    pacs.faults = Faults(hold_instances_after=SOME)
    with PacsClient(redis_url) as client, ExitStack() as stack:
        before = [
            stack.enter_context(workers.worker(redis_url, tmp_path, name, concurrency=1, root=old))
            for name in ("old-1", "old-2")
        ]
        job = client.enqueue(
            StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=10)
        )
        wait_until(lambda: len(pacs.stores) > SOME, 30, "some files are sent")
        for number, each in enumerate(before):
            stack.enter_context(workers.worker(redis_url, tmp_path, f"new-{number}", concurrency=1))
            _replace(each, pacs)
        assert not job.progress().state.finished
        pacs.faults = Faults()
        # What the old ones would not have read.
        asked = client.enqueue(EchoRequest(remote=pacs.remote, services=True))
        asked.wait(60)
        assert asked.outcome().services
        job.wait(60)
        outcome = job.outcome()
        assert isinstance(outcome, TransferOutcome)
        assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, FILES)
        assert len(pacs.stores) == len(pacs.instances) == FILES
