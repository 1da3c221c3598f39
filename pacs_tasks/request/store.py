"""Requests for sending."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pacs_tasks.request.base import Request, TransferRequest


class StoreRequest(TransferRequest):
    """Send one DICOM file (C-STORE, PS3.4 annex B). The worker must see ``path``."""

    task: ClassVar[str] = "pacs_tasks.store_file"

    path: str = Field(min_length=1)


class StoreDirectoryRequest(TransferRequest):
    """Send every DICOM file below ``directory``, which the workers must see.

    ``files_per_task`` sets the size of a part. By default it is one file in a small directory; otherwise it depends on
    the sizes of the files and the round trip to the remote.
    """

    task: ClassVar[str] = "pacs_tasks.store_directory"

    directory: str = Field(min_length=1)
    files_per_task: int | None = Field(default=None, ge=1, le=100_000)


class PreflightRequest(Request):
    """Negotiate for the files of ``directory`` to learn what the remote accepts. Nothing is sent."""

    task: ClassVar[str] = "pacs_tasks.preflight"

    directory: str = Field(min_length=1)
