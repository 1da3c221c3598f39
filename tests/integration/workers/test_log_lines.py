"""Logs as JSON lines: each is one object that names its job, part and remote, and no patient."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from pacs_tasks import PacsClient, StoreDirectoryRequest
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.testing import TestPACS
from tests.support import workers
from tests.support.command import PACS_TASKS, Terminal
from tests.support.dicom_files import CHINESE_NAME, write_series
from tests.support.ports import free_port
from tests.support.processes import Process


def _lines(text: str) -> list[dict[str, Any]]:
    # To root, Celery says something before it has a log.
    return [json.loads(line) for line in text[text.index("{") :].splitlines()]


def _ended(process: Process) -> str:
    process.popen.send_signal(signal.SIGTERM)
    process.popen.wait(30)
    return process.said()


def test_every_process_writes_json_lines(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    files = tmp_path / "files"
    write_series(files, 20, rows=2)
    with (
        workers.worker(redis_url, tmp_path, PACS_TASKS_LOG_FORMAT="json") as worker,
        workers.receiver(redis_url, tmp_path, free_port(), PACS_TASKS_LOG_FORMAT="json") as receiver,
        PacsClient(redis_url) as client,
    ):
        job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(files), files_per_task=10))
        job.wait(60)
        here = Terminal(tmp_path, redis_url, (("PACS_TASKS_LOG_FORMAT", "json"),), PACS_TASKS)
        peer = ("--ip", pacs.host, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title)
        assert here.run("echo", *peer, "--log-file", "command.log").code == 0
        said = _ended(worker)
        lines = _lines(said)
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        parts = [line for line in lines if line.get("job") == job.id and "part" in line]
        assert {line["part"] for line in parts} == {"1-10", "11-20"}
        assert {line["remote"] for line in parts} == {name_of(pacs.remote)}
        assert any(line.get("task") == "pacs_tasks.store_directory" and line["task_id"] == job.id for line in lines)
        assert str(files) not in said
        assert CHINESE_NAME not in said
        assert _lines(_ended(receiver))
        _lines((tmp_path / "command.log").read_text())


def test_lines_of_text_name_the_job(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """That is the default, and every line ends as it always did where there is no job."""
    write_series(tmp_path / "files", 2, rows=2)
    with workers.worker(redis_url, tmp_path) as worker, PacsClient(redis_url) as client:
        job = client.enqueue(
            StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files"), files_per_task=1)
        )
        job.wait(60)
        said = _ended(worker)
    assert f" [job {job.id}, part 1-1, remote {name_of(pacs.remote)}]" in said
    assert any(line.endswith(" ready.") for line in said.splitlines())
