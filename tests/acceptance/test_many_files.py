"""Ten thousand files: the id at once, progress, cancel, and retry of the rest only."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_tasks.dimse.files import part10
from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, peers, workers
from tests.support.command import Terminal
from tests.support.ports import free_port
from tests.support.waiting import wait_until

_COUNT = 10_000


@pytest.mark.dcmtk
@pytest.mark.timeout(300)
def test_that_ten_thousand_files_can_be_cancelled_and_finished(
    redis_url: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The id comes at once, `cancel` ends a waiting `wait` with 5 in 5 s, and `retry` sends the rest only.

    A TestPACS takes ten times as long for the rest as the storescp that has its place then.
    """
    dicom_files.write_series(tmp_path / "many", _COUNT, rows=8)
    port, terminal = free_port(), Terminal(tmp_path, redis_url)
    with workers.worker(redis_url, tmp_path):
        with TestPACS(port=port) as pacs:
            options = ["--ip", pacs.host, "--port", port, "--pacs-ae-title", pacs.ae_title]
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
            counted = terminal.run("status", job_id, "--json").json["job"]["counters"]["success"]
            assert counted == len(pacs.stores) == len(pacs.instances) < _COUNT

        with peers.storescp(tmp_path, pacs.ae_title, "--fork", "-v", port=port) as storescp:
            again = terminal.run("retry", job_id)
            assert again.code == 0, str(again)
            wait_until(lambda: _received(storescp) >= _COUNT - counted, 20, "storescp to write its log")
    before, after = (
        pacs.instances.keys(),
        {part10.read_instance(str(path)).sop_instance_uid for path in storescp.files()},
    )
    assert len(before | after) == _COUNT
    assert counted + _received(storescp) == _COUNT, "no instance was sent twice"
    record_property("seconds_to_id", round(detached.seconds, 2))
    record_property("seconds_to_cancel", round(waited.seconds, 2))
    record_property("seconds_of_the_rest", round(again.seconds, 1))


def _received(storescp: peers.Directory) -> int:
    return storescp.process.said().count("Received Store Request")


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
