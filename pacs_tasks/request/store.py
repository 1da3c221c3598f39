"""Requests to send."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pacs_tasks.request.base import Request, TransferRequest


class StoreRequest(TransferRequest):
    """Send one DICOM file (C-STORE, PS3.4 annex B). ``path`` must be visible to the worker."""

    task: ClassVar[str] = "pacs_tasks.store_file"

    path: str = Field(min_length=1)


class StoreDirectoryRequest(TransferRequest):
    """Send every DICOM file below ``directory``, which must be visible to the workers.

    ``files_per_task`` overrides the size of a part: by default one file in a small directory, else as many as their
    sizes and the way to the peer make work enough.
    """

    task: ClassVar[str] = "pacs_tasks.store_directory"

    directory: str = Field(min_length=1)
    files_per_task: int | None = Field(default=None, ge=1, le=100_000)


class PreflightRequest(Request):
    """What would a send of ``directory`` meet? Nothing is sent; the peer is only asked what it accepts."""

    task: ClassVar[str] = "pacs_tasks.preflight"

    directory: str = Field(min_length=1)
