"""The metrics of a fleet agree with what the PACS holds."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread

from pacs_tasks import PacsClient, RetrieveMethod, RetrieveRequest, StoreDirectoryRequest
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import study_uid, write_series
from tests.support.http_api import serving
from tests.support.ports import free_port
from tests.support.processes import ROOT, Process
from tests.support.waiting import wait_until

COUNT, REFUSED, TRANSIENT = 40, 3, 2


#: What names metrics.
FILES = [*sorted((ROOT / "workers/monitoring").iterdir()), ROOT / "docs/howto/monitoring.md"]


def named() -> set[str]:
    """The metrics that dashboards, alerts and the guide name, by the names of their samples."""
    found = set(re.findall(r"\bpacs_tasks_[a-z_]+", "".join(path.read_text() for path in FILES)))
    return found - {"pacs_tasks_job_seconds", "pacs_tasks_dimse_seconds"}


def scraped(process: Process) -> Scrape:
    """What a worker or a receiver gives at /metrics."""
    (address,) = re.findall(r"Metrics are at (http://127\.0\.0\.1:\d+/metrics)", process.said())
    return Scrape(address, "")


@dataclass(frozen=True)
class Scrape:
    """What an address gives, to whoever has the token."""

    address: str
    token: str

    def text(self) -> str:
        wanted = urllib.request.Request(self.address, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(wanted, timeout=20) as answer:
            return bytes(answer.read()).decode()

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric over all that have these labels."""
        families = text_string_to_metric_families(self.text())
        samples = [each for family in families for each in family.samples if each.name == name]
        return sum(each.value for each in samples if labels.items() <= each.labels.items())


def test_the_counters_are_what_the_pacs_holds(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """Of files sent, refused, sent again, and retrieved; worker, receiver and `serve` give the same figures."""
    paths, port = write_series(tmp_path / "files", COUNT), free_port()
    uids = [str(dcmread(path).SOPInstanceUID) for path in paths]
    statuses = dict.fromkeys(uids[:REFUSED], 0x0122)
    pacs.destinations = {"METRICS": ("127.0.0.1", port)}
    with (
        workers.worker(redis_url, tmp_path, PACS_TASKS_METRICS_PORT="0") as worker,
        workers.receiver(redis_url, tmp_path, port, "METRICS", PACS_TASKS_METRICS_PORT="0") as receiver,
        serving(redis_url, tmp_path) as server,
        PacsClient(redis_url) as client,
    ):
        reader = server.as_one_who(Scope.READ)
        fleet = scraped(worker)
        same, also = scraped(receiver), Scrape(f"{reader.address}/metrics", reader.token)
        sent = {"operation": "send-dir", "direction": "sent", "remote": name_of(pacs.remote)}
        pacs.faults = Faults(store_status=statuses)
        job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "files")))
        job.wait(60)
        for scrape in (fleet, same, also):
            assert scrape.value("pacs_tasks_instances_total", **sent, category="success") == len(pacs.instances)
            assert scrape.value("pacs_tasks_instances_total", **sent, category="failed") == REFUSED
        size = sum(path.stat().st_size for path in paths[REFUSED:])
        assert fleet.value("pacs_tasks_bytes_total", **sent, category="success") == size
        assert fleet.value("pacs_tasks_bytes_total", **sent, category="warning") == 0
        pacs.faults = Faults(store_status=dict.fromkeys(uids[:TRANSIENT], 0xA700), store_status_times=2)
        job.retry().wait(60)
        assert len(pacs.instances) == COUNT
        assert fleet.value("pacs_tasks_instances_total", **sent, category="success") == COUNT
        assert fleet.value("pacs_tasks_instances_total", **sent, category="failed") == REFUSED
        assert fleet.value("pacs_tasks_retries_total", **sent) == TRANSIENT
        assert fleet.value("pacs_tasks_jobs_ended_total", operation="send-dir", category="partial") == 1
        assert fleet.value("pacs_tasks_job_seconds_count", operation="send-dir") == 2
        client.enqueue(
            RetrieveRequest(
                remote=pacs.remote,
                study_uid=study_uid(),
                output_dir=str(tmp_path / "out"),
                method=RetrieveMethod.MOVE,
                move_aet="METRICS",
            )
        ).wait(60)
        assert fleet.value("pacs_tasks_instances_total", direction="received", category="success") == COUNT
        wait_until(
            lambda: same.value("pacs_tasks_receiver_instances_total", category="expected") == COUNT, 20, "its figures"
        )
        stored = {"service": "C-STORE", "remote": name_of(pacs.remote)}
        assert fleet.value("pacs_tasks_dimse_seconds_count", **stored) == len(pacs.stores)
        assert 0 < fleet.value("pacs_tasks_dimse_seconds_sum", **stored) < 60
        assert fleet.value("pacs_tasks_dimse_seconds_count", service="C-MOVE") >= 1
        assert fleet.value("pacs_tasks_dimse_seconds_count", service="C-FIND") >= 1
        assert fleet.value("pacs_tasks_messages") == fleet.value("pacs_tasks_jobs_running") == 0
        assert fleet.value("pacs_tasks_ledger_jobs") == 2
        described = set(re.findall(r"^# TYPE (\w+)", fleet.text(), re.MULTILINE))
        unknown = {each for each in named() if each.removesuffix("_bucket") not in described}
        assert not unknown
        assert fleet.value("process_resident_memory_bytes") > 0
