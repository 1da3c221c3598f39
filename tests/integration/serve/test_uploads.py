"""A service whose files no worker sees uploads them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks.client import PacsClient
from pacs_tasks.serve.spool import Spool
from pacs_tasks.testing import Faults, TestPACS
from pacs_tasks.testing.faults import EVERY_INSTANCE
from tests.integration.serve.conftest import UPLOAD_BYTES
from tests.support.dicom_files import write_series
from tests.support.http_api import Api
from tests.support.waiting import wait_until

PARTS = {"Content-Type": "multipart/form-data; boundary=between"}
ZIP = {"Content-Type": "application/zip"}


def _parts(files: list[bytes]) -> bytes:
    head = b'--between\r\nContent-Disposition: form-data; name="file"; filename="../../../name"\r\n\r\n'
    return b"".join(head + each + b"\r\n" for each in files) + b"--between--\r\n"


def _zip(files: list[bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for number, each in enumerate(files):
            archive.writestr(f"../{number}", each)
    return buffer.getvalue()


def _remote(pacs: TestPACS) -> dict[str, Any]:
    return pacs.remote.model_dump(mode="json", exclude_none=True)


def _submit(service: Api, pacs: TestPACS, upload_id: str) -> str:
    return service.submit("pacs_tasks.store_paths", {"remote": _remote(pacs)}, upload=upload_id)


def _gone(service: Api, upload_id: str) -> bool:
    body = {"task": "pacs_tasks.store_paths", "upload": upload_id}
    return service.call("POST", "/jobs", body).status == 404


@pytest.mark.parametrize("kind", ["parts", "zip"])
def test_an_upload_is_sent_and_then_removed(service: Api, pacs: TestPACS, tmp_path: Path, kind: str) -> None:
    """Parts of a form or a ZIP archive: the PACS gets every instance, and nothing of the upload stays."""
    files = [path.read_bytes() for path in write_series(tmp_path, 5, rows=2)]
    body, headers = (_parts(files), PARTS) if kind == "parts" else (_zip(files), ZIP)
    uploaded = service.call("POST", "/uploads", body, headers, status=201).json
    assert (uploaded["files"], uploaded["bytes"]) == (5, len(body))
    task, upload_id = "pacs_tasks.store_paths", uploaded["upload_id"]
    wanted = {"task": task, "request": {"remote": _remote(pacs)}, "upload": upload_id}
    key = {"Idempotency-Key": str(tmp_path)}
    job_id = service.call("POST", "/jobs", wanted, key, status=202).json["job_id"]
    assert service.follow(job_id)[-1][1]["counters"]["success"] == 5
    assert len(pacs.instances) == 5
    # The directory is removed by the server itself, a few seconds after the end.
    root = Path(service.get(f"/jobs/{job_id}")["request"]["paths"][0]).parent
    wait_until(lambda: not root.exists(), 30, "the upload to be removed")
    assert service.call("DELETE", f"/uploads/{upload_id}").status == 404
    # Whoever did not get the answer calls again, and gets the job that there is.
    assert service.call("POST", "/jobs", wanted, key, status=202).json["job_id"] == job_id
    assert service.call("POST", "/jobs", wanted, {"Idempotency-Key": f"{tmp_path}/2"}).status == 404


def test_an_upload_is_no_path(service: Api, pacs: TestPACS, tmp_path: Path) -> None:
    """Not even one whose files the job of the same key sends: nothing is written beside these."""
    path = tmp_path / "files"
    path.mkdir()
    write_series(path, 1, rows=2)
    key, request = {"Idempotency-Key": str(tmp_path)}, {"remote": _remote(pacs)}
    named = {"task": "pacs_tasks.store_paths", "request": request | {"paths": [str(path)]}}
    service.call("POST", "/jobs", named, key, status=202)
    outside = {"task": "pacs_tasks.store_paths", "request": request, "upload": str(tmp_path)}
    assert service.call("POST", "/jobs", outside, key).status == 404
    assert list(tmp_path.iterdir()) == [path]


def test_an_upload_stays_for_a_retry(service: Api, pacs: TestPACS, tmp_path: Path) -> None:
    """As long as something failed, its files are there; whoever gives up deletes them."""
    body = _parts([path.read_bytes() for path in write_series(tmp_path, 2, rows=2)])
    upload_id = service.call("POST", "/uploads", body, PARTS, status=201).json["upload_id"]
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xC000})
    job_id = _submit(service, pacs, upload_id)
    service.follow(job_id)
    pacs.faults = Faults(store_status={sorted(_uids(service, job_id))[0]: 0xC000})
    service.call("POST", f"/jobs/{job_id}/retry", status=202)
    service.follow(job_id)
    assert len(pacs.instances) == 1
    service.call("DELETE", f"/uploads/{upload_id}", status=204)
    assert _gone(service, upload_id)


def test_an_upload_stays_until_each_of_its_jobs_has_sent_it(service: Api, pacs: TestPACS, tmp_path: Path) -> None:
    """One remote has everything; the other one needs a retry."""
    body = _parts([path.read_bytes() for path in write_series(tmp_path, 2, rows=2)])
    upload_id = service.call("POST", "/uploads", body, PARTS, status=201).json["upload_id"]
    with TestPACS(faults=Faults(store_status={EVERY_INSTANCE: 0xC000})) as refusing:
        refused = _submit(service, refusing, upload_id)
        service.follow(refused)
        sent = _submit(service, pacs, upload_id)
        service.follow(sent)
        root = Path(service.get(f"/jobs/{sent}")["request"]["paths"][0]).parent
        spool = Spool(root.parent, UPLOAD_BYTES, 3_600)
        with PacsClient(service.redis_url) as client:
            spool.sweep(client)
            assert root.exists()
            refusing.faults = Faults()
            service.call("POST", f"/jobs/{refused}/retry", status=202)
            service.follow(refused)
            assert len(refusing.instances) == 2
            spool.sweep(client)
            assert not root.exists()


def _uids(service: Api, job_id: str) -> list[str]:
    return [each["sop_instance_uid"] for each in service.get(f"/jobs/{job_id}/instances")["instances"]]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (_zip([bytes(UPLOAD_BYTES + 1)]), ZIP, 413, "ContentTooLargeError"),
        (b"PK", {**ZIP, "Content-Length": str(UPLOAD_BYTES + 1)}, 413, "ContentTooLargeError"),
        (_zip([b"file"])[:-10], ZIP, 400, "MalformedUploadError"),
        (_zip([]), ZIP, 400, "MalformedUploadError"),
        (tarfile.TarInfo("a").tobuf() + bytes(1024) + _zip([b"file"]), ZIP, 400, "MalformedUploadError"),
        (_parts([b"file"])[:-10], PARTS, 400, "MalformedUploadError"),
        (_parts([]), PARTS, 400, "MalformedUploadError"),
        (b"not what it says", PARTS, 400, "MalformedUploadError"),
    ],
    ids=["zip bomb", "too large", "cut off", "empty", "tar and zip", "parts cut off", "no parts", "not parts"],
)
def test_a_bad_upload_is_refused(service: Api, body: bytes, headers: dict[str, Any], status: int, code: str) -> None:
    """Nothing of it stays on disk."""
    assert service.call("POST", "/uploads", body, headers, status=status).json["code"] == code
