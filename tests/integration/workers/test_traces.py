"""One trace leads from the request to the C-STORE."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pacs_tasks import PacsClient, StoreDirectoryRequest
from pacs_tasks.journal import tracing
from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.settings import Settings
from pacs_tasks.testing import TestPACS
from tests.support import workers
from tests.support.dicom_files import write_series
from tests.support.http_api import serving
from tests.support.waiting import wait_until

proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Collect)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def spans(self) -> list[tuple[str, str, str, str]]:
        """Name, trace, id and parent of each span."""
        requests = [proto.ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            (span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Collect(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_one_trace_leads_to_the_c_store(redis_url: str, pacs: TestPACS, collector: Collector, tmp_path: Path) -> None:
    """With the planner and both parts in between; no span has a path or a name of a patient."""
    write_series(tmp_path / "secret-ward", 20, patient_name="Hidden^Person")
    config = Settings(redis_url=redis_url, traces=collector.address)
    with workers.worker(redis_url, tmp_path, PACS_TASKS_TRACES=collector.address), PacsClient(config=config) as client:
        client.enqueue(
            StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "secret-ward"), files_per_task=10)
        ).wait(60)
        tracing.flush(collector.address)
        wait_until(lambda: [each[0] for each in collector.spans()].count("C-STORE") == 2, 30, "the spans of the parts")
    spans = {span: (name, parent) for name, _, span, parent in collector.spans()}
    assert len({trace for _, trace, _, _ in collector.spans()}) == 1
    for name, parent in spans.values():
        if name == "C-STORE":
            part, planner_id = spans[parent]
            planner, root_id = spans[planner_id]
            assert (part, planner, spans[root_id]) == (
                "pacs_tasks.store_part",
                "pacs_tasks.store_directory",
                ("enqueue send-dir", ""),
            )
    sent = b"".join(collector.bodies)
    assert b"secret-ward" not in sent
    assert b"Hidden" not in sent


def test_a_trace_of_a_service_goes_on_over_http(
    redis_url: str, pacs: TestPACS, collector: Collector, tmp_path: Path
) -> None:
    """A request has a span of its own below that of the caller and leads to the C-STORE; a wrong header is ignored."""
    files = write_series(tmp_path / "files", 2)
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with (
        workers.worker(redis_url, tmp_path, PACS_TASKS_TRACES=collector.address),
        serving(redis_url, tmp_path, PACS_TASKS_TRACES=collector.address) as server,
    ):
        service = server.as_one_who(Scope.SUBMIT)
        remote = pacs.remote.model_dump(mode="json")
        for path, parent in zip(files, (f"00-{trace}-{caller}-01", "nonsense"), strict=True):
            body = {"task": "pacs_tasks.store_file", "request": {"remote": remote, "path": str(path)}}
            service.call("POST", "/jobs", body, {"traceparent": parent}, status=202)
        wait_until(lambda: _names(collector, "C-STORE", "HTTP POST") == [2, 2], 30, "the spans of both")
    spans = {span: (name, found, parent) for name, found, span, parent in collector.spans()}
    ways = sorted(_way(spans, each) for each in spans if spans[each][0] == "C-STORE")
    assert ways == [
        ["C-STORE", "pacs_tasks.store_file", "enqueue send-file", "HTTP POST", ""],
        ["C-STORE", "pacs_tasks.store_file", "enqueue send-file", "HTTP POST", caller],
    ]
    posted = {parent: found for name, found, parent in spans.values() if name == "HTTP POST"}
    assert posted[caller] == trace
    assert posted[""] != trace


def _names(collector: Collector, *names: str) -> list[int]:
    """How many spans have each of these names."""
    found = [each[0] for each in collector.spans()]
    return [found.count(name) for name in names]


def _way(spans: Mapping[str, tuple[str, str, str]], span: str) -> list[str]:
    """The names of a span and of those that it is in; the last one is the id of a span that is not ours, or empty."""
    names = []
    while span in spans:
        name, _, span = spans[span]
        names.append(name)
    return [*names, span]
