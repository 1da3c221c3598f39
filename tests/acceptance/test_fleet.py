"""Two workers share one directory job, and Flower shows it without a path or a name."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, workers
from tests.support.command import Terminal
from tests.support.waiting import wait_until

_LOGIN = "watcher:only-for-this-test"


def _page(address: str, path: str) -> str:
    token = base64.b64encode(_LOGIN.encode()).decode()
    request = urllib.request.Request(address + path, headers={"Authorization": f"Basic {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read()).decode()


def _tasks(address: str) -> dict[str, Any]:
    return dict(json.loads(_page(address, "/api/tasks?limit=1000")))


def test_that_two_workers_share_a_job_and_flower_is_blind(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Both workers send parts of one job; Flower lists them and shows neither path nor patient."""
    secret = tmp_path / "secret-ward"
    paths = dicom_files.write_series(secret, 150, patient_name="Hidden^Person", patient_id="HIDDEN-ID")
    options = ["--ip", pacs.host, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title]
    with (
        workers.worker(redis_url, tmp_path, "one", options="") as one,
        workers.worker(redis_url, tmp_path, "two", options="") as two,
        workers.flower(redis_url, tmp_path, _LOGIN) as address,
    ):
        wait_until(lambda: len(json.loads(_page(address, "/api/workers?refresh=1"))) == 2, 30, "both workers in Flower")
        # It knows of tasks by events, which it must hear by now.
        wait_until(lambda: len(json.loads(_page(address, "/api/workers?status=1"))) == 2, 30, "word of both workers")
        terminal = Terminal(tmp_path, redis_url)
        # More answers are awaited than one worker has processes.
        pacs.faults, began = Faults(hold_instances_after=0), time.monotonic()
        with terminal.starts("send-dir", "--dir", secret, "--files-per-task", "1", *options) as popen:
            wait_until(lambda: len(pacs.stores) > 2, 60, "both workers to send")
            pacs.faults = Faults()
            result = terminal.finished(popen, began)
        assert result.code == 0, str(result)
        found = terminal.run("query", "--patient-id", "HIDDEN-ID", *options)
        assert "Hidden^Person" in found.stdout, str(found)
        back = terminal.run(
            "retrieve", "--study-uid", dicom_files.study_uid(), "--output-dir", secret / "out", *options
        )
        assert back.code == 0, str(back)
        assert len(pacs.instances) == len(pacs.stores) == len(paths)

        def parts() -> dict[str, str]:
            return {
                uuid: str(task["worker"])
                for uuid, task in _tasks(address).items()
                if task["name"] == "pacs_tasks.store_part" and task["state"] == "SUCCESS"
            }

        done = wait_until(lambda: parts() if len(parts()) >= len(paths) else None, 30, "the parts in Flower")
        assert done is not None
        assert len(done) == len(paths)
        assert {name.partition("@")[0] for name in done.values()} == {"one", "two"}

        uuids = list(_tasks(address))
        pages = ["/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks?limit=1000"]
        pages += [f"/task/{uuid}" for uuid in uuids[:20]] + [f"/api/task/info/{uuid}" for uuid in uuids]
        shown = "".join(_page(address, page) for page in pages)
        said = one.said() + two.said()
    for private in ("secret-ward", "Hidden", "HIDDEN-ID", str(tmp_path), dicom_files.study_uid()):
        assert private not in shown, private
    for private in ("Hidden", "HIDDEN-ID", "secret-ward"):
        assert private not in said, private


@pytest.mark.parametrize("path", ["/", "/api/workers", "/api/tasks"])
def test_that_flower_asks_for_a_login(redis_url: str, tmp_path: Path, path: str) -> None:
    """Without the login Flower shows nothing."""
    with workers.flower(redis_url, tmp_path, _LOGIN) as address:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address + path, timeout=10)
        assert refused.value.code == 401
        refused.value.close()
