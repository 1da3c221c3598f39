"""Objects of an S3 that a job sends: the PACS holds their bytes, and receipts name their URLs."""

from __future__ import annotations

import io
import json
import ssl
import tarfile
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from pacs_tasks import (
    Category,
    JobState,
    PacsClient,
    PreflightOutcome,
    PreflightRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
    TransferOutcome,
)
from pacs_tasks.request import AnyRequest
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import data_set, write_large, write_series
from tests.support.object_store import CREDENTIALS, ObjectStore, object_store
from tests.support.processes import Process
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until


class Scene(NamedTuple):
    """A store, a web server, a client, and a worker that reads all buckets but one and one folder of the server."""

    store: ObjectStore
    client: PacsClient
    worker: Process
    web: str


#: What the web server has. Its folder `allowed` redirects to another one.
_PAGES: dict[str, bytes] = {}


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/allowed/moved":
            self.send_response(302)
            self.send_header("Location", "/elsewhere/1.dcm")
        else:
            self.send_response(200 if self.path in _PAGES else 404)
        content = _PAGES.get(self.path, b"")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def web_server(directory: Path) -> Iterator[str]:
    """An HTTPS server whose authority is in ``ca.pem`` of the directory; gives its address."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def scene(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    url, directory = redis_process.fresh_url(), tmp_path_factory.mktemp("object-stores")
    with object_store(directory) as store:
        for bucket in ("bucket", "closed", "elsewhere"):
            store.put(bucket)
        with web_server(directory) as web:
            settings = {"PACS_TASKS_SOURCE_URLS": f"s3://bucket,s3://closed s3://none {web}/allowed"}
            settings |= {**store.environment, "SSL_CERT_FILE": str(directory / "ca.pem")}
            running = workers.worker(url, directory, concurrency=2, level="DEBUG", **settings)
            with running as worker, PacsClient(url) as client:
                yield Scene(store, client, worker, web)


def done(scene: Scene, request: AnyRequest) -> TransferOutcome:
    job = scene.client.enqueue(request)
    job.wait(90)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def held(pacs: TestPACS) -> Counter[bytes]:
    return Counter(each.data_set for each in pacs.instances.values())


def zipped(paths: list[Path]) -> bytes:
    with io.BytesIO() as content:
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
            for path in paths:
                file.write(path, f"IM/{path.name}")
        return content.getvalue()


def tarred(paths: list[Path], mode: str) -> bytes:
    with io.BytesIO() as content:
        with tarfile.open(fileobj=content, mode=mode) as file:  # type: ignore[call-overload]  # the mode is any
            for path in paths:
                file.add(path, f"IM/{path.name}")
        return content.getvalue()


def test_everything_below_a_url_is_sent_byte_for_byte(scene: Scene, pacs: TestPACS, tmp_path: Path) -> None:
    """Whatever the names are, at any depth; what is no DICOM is skipped; a retry does what failed."""
    paths = write_series(tmp_path, 12)
    names = [f"study/{'张三 #%41+&' if number % 2 else 'a/b'}/{path.name}" for number, path in enumerate(paths)]
    for name, path in zip(names, paths, strict=True):
        scene.store.put(f"bucket/{name}", path.read_bytes())
    scene.store.put("bucket/study/read me.txt", b"no DICOM")
    scene.store.put("bucket/study2/1.dcm", paths[0].read_bytes())
    outcome = done(scene, StoreDirectoryRequest(remote=pacs.remote, directory="s3://bucket/study"))
    assert (outcome.counters.success, outcome.counters.skipped, outcome.counters.total) == (12, 1, 13)
    assert held(pacs) == Counter(map(data_set, paths))
    assert outcome.problems[0].subject == "s3://bucket/study/read me.txt"
    assert not list(Path(tempfile.gettempdir()).glob("pacs-tasks-unpacked-*/*"))


def test_objects_and_archives_in_a_store_are_one_job(scene: Scene, pacs: TestPACS, tmp_path: Path) -> None:
    """A ZIP and a tar are read in parts, a compressed tar in order; a file of this machine goes with them."""
    paths = write_series(tmp_path / "made", 9)
    large = write_large(tmp_path / "large.dcm", 9 << 20)
    _PAGES["/allowed/1.dcm"] = paths[8].read_bytes()
    named = (
        f"{scene.web}/allowed/1.dcm",
        scene.store.put("bucket/a.zip", zipped(paths[:2])),
        scene.store.put("bucket/a.tar", tarred(paths[2:4], "w")),
        scene.store.put("bucket/a.tgz", tarred(paths[4:6], "w:gz")),
        scene.store.put("bucket/a.dcm", paths[6].read_bytes()),
        scene.store.put("bucket/large.dcm", large.read_bytes()),
        str(paths[7]),
    )
    job = scene.client.enqueue(StorePathsRequest(remote=pacs.remote, paths=named))
    job.wait(90)
    assert job.outcome().category is Category.SUCCESS
    assert held(pacs) == Counter(map(data_set, (*paths, large)))
    receipts = [each.path for each in job.receipts()]
    assert receipts[1:3] == [f"s3://bucket/a.zip/IM/{path.name}" for path in paths[:2]]
    assert receipts[5:] == [*(f"s3://bucket/a.tgz/IM/{path.name}" for path in paths[4:6]), *named[4:]]

    assert done(scene, StoreRequest(remote=pacs.remote, path="s3://bucket/a.dcm")).category is Category.SUCCESS
    checked = scene.client.enqueue(PreflightRequest(remote=pacs.remote, paths=named[1:5]))
    checked.wait(60)
    outcome = checked.outcome()
    assert isinstance(outcome, PreflightOutcome)
    assert outcome.total == 7


def test_what_cannot_be_read_is_named_in_one_sentence_without_secrets(
    scene: Scene, pacs: TestPACS, tmp_path: Path
) -> None:
    """Before anything is sent; and nothing that a worker says holds a credential."""
    (path,) = write_series(tmp_path, 1)
    _PAGES["/elsewhere/1.dcm"] = path.read_bytes()
    scene.store.put("closed/1.dcm", path.read_bytes())
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::closed/*"}
    scene.store.put("closed?policy", json.dumps({"Version": "2012-10-17", "Statement": [deny]}).encode())
    scene.store.put("elsewhere/1.dcm", path.read_bytes())
    reasons = {
        "s3://none/1.dcm": "no such bucket",
        "s3://none/below/": "no such bucket",
        "s3://bucket/missing.dcm": "no such object",
        "s3://bucket/missing/": "nothing at this URL",
        "s3://elsewhere/1.dcm": "does not send from this URL",
        "s3://elsewhere/missing.dcm": "does not send from this URL",
        f"{scene.web}/elsewhere/1.dcm": "does not send from this URL",
        f"{scene.web}/allowed/missing.dcm": "no such object",
        f"{scene.web}/allowed/moved": "redirects",
        f"{scene.web}/allowed/": "lists no files",
        "gs://bucket/1.dcm": "does not send from this URL",
    }
    said = ""
    for url, reason in reasons.items():
        job = scene.client.enqueue(StorePathsRequest(remote=pacs.remote, paths=(url,)))
        assert job.wait(90).state is JobState.FAILED
        with pytest.raises(Exception, match=reason) as raised:
            job.outcome()
        said += str(raised.value)
    outcome = done(scene, StoreDirectoryRequest(remote=pacs.remote, directory="s3://closed"))
    assert "does not let this worker read it" in outcome.problems[0].reason
    assert not pacs.instances
    said += scene.worker.said() + outcome.problems[0].reason
    assert not any(secret in said for secret in (CREDENTIALS["AWS_SECRET_ACCESS_KEY"], "Authorization"))
    assert "1.dcm" not in scene.worker.said(), "names of objects may be private"


def test_an_object_that_goes_or_changes_fails_alone(scene: Scene, pacs: TestPACS, tmp_path: Path) -> None:
    """The job has listed them; a retry finds one that is gone, and one that has grown."""
    paths = write_series(tmp_path, 3)
    for path in paths:
        scene.store.put(f"bucket/changing/{path.name}", path.read_bytes())
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA900})
    job = scene.client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory="s3://bucket/changing/"))
    job.wait(90)
    assert job.outcome().counters.failed == 3
    pacs.faults = Faults()
    scene.store.delete(f"bucket/changing/{paths[0].name}")
    scene.store.put(f"bucket/changing/{paths[1].name}", paths[1].read_bytes() + bytes(8))
    job.retry()
    wait_until(lambda: job.progress().state is JobState.DONE, 60, "the end of the retry")
    reasons = sorted(each.reason for each in job.outcome().problems)
    assert [each[:24] for each in reasons] == ["The object has changed s", "There is no such object,"]
    assert held(pacs) == Counter([data_set(paths[2])])
