"""The routes of uploads, for services whose files no worker sees."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pacs_tasks.serve.access import Shared, Submitter
from pacs_tasks.serve.problems import RefusedError
from pacs_tasks.serve.spool import not_whole, too_large

PATH = "/uploads"
router = APIRouter(prefix=PATH, tags=["uploads"])

_ZIP = "application/zip"
_PARTS = "multipart/form-data"
_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            _PARTS: {"schema": {"type": "object", "properties": {"file": {"type": "array", "items": _BINARY}}}},
            _ZIP: {"schema": _BINARY},
        },
    }
}


class Uploaded(BaseModel):
    """Files that a job may send: ``upload`` in the body of ``POST /jobs``. ``keep`` is in seconds."""

    upload_id: str
    files: int
    bytes: int
    keep: float


@router.post("", status_code=201, operation_id="upload", openapi_extra=_BODY)
async def upload(request: Request, _caller: Submitter, services: Shared) -> Uploaded:
    """Upload DICOM files, each as a part of a form, or all in a ZIP archive."""
    boundary = _boundary(request)
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > services.spool.limit:
        raise too_large(f"more than {services.spool.limit} bytes")
    received = await run_in_threadpool(services.spool.begin)
    try:
        sink = await run_in_threadpool(received.sink, boundary)
        try:
            async for piece in request.stream():
                await run_in_threadpool(received.write, sink, piece)
        finally:
            await run_in_threadpool(sink.close)
        await run_in_threadpool(sink.verify)
        if not sink.count:
            raise RefusedError(400, "MalformedUploadError", "The upload has no files. Add some.")
        await run_in_threadpool(received.finish)
    except ClientDisconnect:
        raise not_whole() from None
    finally:
        await run_in_threadpool(received.discard)
    return Uploaded(upload_id=received.id, files=sink.count, bytes=received.size, keep=services.spool.keep)


@router.delete("/{upload_id}", status_code=204, operation_id="delete_upload")
def delete_upload(
    upload_id: Annotated[str, Path(min_length=1, max_length=64)], _caller: Submitter, services: Shared
) -> None:
    """Delete an upload that no unfinished job reads."""
    services.spool.remove(upload_id, services.client)


def _boundary(request: Request) -> bytes | None:
    """Read the boundary of a multipart body; None for an archive.

    Raises
    ------
    RefusedError
        If the body is neither.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    with suppress(KeyError):
        if kind == _PARTS.encode():
            return options[b"boundary"]
    if kind != _ZIP.encode():
        raise RefusedError(
            415, "UnsupportedMediaTypeError", f"The upload is neither {_PARTS} nor {_ZIP}. Set its Content-Type."
        )
    return None
