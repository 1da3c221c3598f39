"""Ten thousand files: the id at once, progress, cancel, and retry of the rest only."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, workers
from tests.support.command import Terminal
from tests.support.waiting import wait_until

_COUNT = 10_000


@pytest.mark.timeout(300)
def test_that_ten_thousand_files_can_be_cancelled_and_finished(
    redis_url: str, pacs: TestPACS, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The id comes at once, `cancel` ends a waiting `wait` with 5 in 5 s, and `retry` sends the rest only."""
    dicom_files.write_series(tmp_path / "many", _COUNT, rows=8)
    options = ["--ip", pacs.host, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title]
    terminal = Terminal(tmp_path, redis_url)
    with workers.worker(redis_url, tmp_path):
        start = terminal.run("jobs").seconds
        detached = terminal.run("send-dir", "--dir", tmp_path / "many", "--detach", *options)
        assert detached.code == 0, str(detached)
        job_id = detached.stdout.strip()
        # About 1 s more than any command takes to start; the machine that tests may be busy.
        assert detached.seconds < 1 + 2 * start, str(detached)

        wait_until(lambda: len(pacs.stores) > 200, 60, "the first instances")
        status = terminal.run("status", job_id, "--json")
        seen = status.json["job"]
        assert seen["state"] == "running"
        assert 0 < seen["counters"]["success"] < seen["counters"]["total"] == _COUNT

        began = time.monotonic()
        with terminal.starts("wait", job_id) as popen:
            cancelled = terminal.run("cancel", job_id)
            waited = terminal.finished(popen, began, 30)
        assert cancelled.code == 0, str(cancelled)
        assert waited.code == 5, str(waited)
        assert waited.seconds < 5 + 2 * status.seconds  # the start of two commands beside the workers

        # What was in the air when the flag went up has an outcome too: nothing is stored without being counted.
        before = list(pacs.stores)
        counted = terminal.run("status", job_id, "--json").json["job"]["counters"]["success"]
        assert counted == len(before) == len(pacs.instances) < _COUNT

        again = terminal.run("retry", job_id)
        assert again.code == 0, str(again)
    assert len(pacs.instances) == _COUNT
    assert len(pacs.stores) == _COUNT, "no instance was sent twice"
    record_property("seconds_to_id", round(detached.seconds, 2))
    record_property("seconds_to_cancel", round(waited.seconds, 2))
    record_property("seconds_of_the_rest", round(again.seconds, 1))


def test_that_retry_sends_only_what_failed(redis_url: str, tmp_path: Path) -> None:
    """After a partial job only the refused instances go again."""
    paths = dicom_files.write_series(tmp_path / "some", 20)
    refused = [str(dicom_files.instance(1_000_001 + number).SOPInstanceUID) for number in (3, 7)]
    faults = Faults(store_status=dict.fromkeys(refused, 0xC000))
    terminal = Terminal(tmp_path, redis_url)
    with workers.worker(redis_url, tmp_path), TestPACS(faults=faults) as pacs:
        options = ["--ip", pacs.host, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title]
        first = terminal.run("send-dir", "--dir", tmp_path / "some", "--json", *options)
        assert first.code == 3, str(first)
        assert len(pacs.stores) == len(paths)
        pacs.faults = Faults()
        again = terminal.run("retry", first.json["job_id"])
        assert again.code == 0, str(again)
        assert sorted(pacs.stores[len(paths) :]) == sorted(refused)
        assert len(pacs.instances) == len(paths)
