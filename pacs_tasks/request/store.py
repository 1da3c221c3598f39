"""Requests for sending, and about the instances that another job has sent."""

from enum import StrEnum
from typing import ClassVar, Self

from pydantic import Field, ValidationInfo, model_validator

from pacs_tasks.request.base import Request, Root, TransferRequest
from pacs_tasks.source import Source


class Transcode(StrEnum):
    """What to do with an instance whose transfer syntax the remote does not accept."""

    NEVER = "never"
    #: Send it in another uncompressed transfer syntax if its own is uncompressed. Nothing is lost.
    UNCOMPRESSED = "uncompressed"
    #: Decompress it as well.
    DECOMPRESS = "decompress"


class FilesRequest(Request):
    """A request about DICOM files. A damaged file fails unless one of its fields says otherwise."""

    #: Send damaged files all the same.
    send_damaged: bool = False
    #: Pad a last value of odd length while the file is sent.
    repair: bool = False
    #: What becomes of a file whose transfer syntax the remote refuses.
    transcode: Transcode = Transcode.UNCOMPRESSED


class StoreRequest(FilesRequest, TransferRequest):
    """Send one DICOM file (C-STORE, PS3.4 annex B): ``path``, which the worker must see, or the URL of an object."""

    task: ClassVar[str] = "pacs_tasks.store_file"

    path: Source


class StoreDirectoryRequest(FilesRequest, TransferRequest):
    """Send every DICOM file below ``directory``, which the workers must see, or every object below a URL.

    ``files_per_task`` sets the size of a part. By default it is one file in a small directory; otherwise it depends on
    the sizes of the files and the round trip to the remote.
    """

    task: ClassVar[str] = "pacs_tasks.store_directory"

    directory: Source
    files_per_task: int | None = Field(default=None, ge=1, le=100_000)


class StorePathsRequest(FilesRequest, TransferRequest):
    """Send files, the DICOM files below directories, and those in ZIP and tar archives, which the workers must see.

    Each may be the URL of an object, of an archive, or of what is below it. An archive stays as it is: each part
    unpacks its own files for as long as it sends them. ``files_per_task`` is as in :class:`StoreDirectoryRequest`.
    """

    task: ClassVar[str] = "pacs_tasks.store_paths"
    bulk: ClassVar[str] = "paths"

    paths: tuple[Source, ...] = Field(default=(), max_length=100_000)
    files_per_task: int | None = Field(default=None, ge=1, le=100_000)

    @model_validator(mode="after")
    def _names_files(self, info: ValidationInfo) -> Self:
        if not self.paths and not (info.context or {}).get("bulk_apart"):
            raise ValueError("name what to send: paths")
        return self


class PreflightRequest(FilesRequest):
    """Negotiate for the files of ``directory`` or of ``paths`` to learn what the remote accepts. Nothing is sent."""

    task: ClassVar[str] = "pacs_tasks.preflight"

    directory: Source | None = None
    paths: tuple[Source, ...] = Field(default=(), max_length=100_000)

    @model_validator(mode="after")
    def _names_files(self) -> Self:
        if (self.directory is None) == (not self.paths):
            raise ValueError("name what to send: directory or paths")
        return self


class JobRequest(Request):
    """A request about another job. Fields such as ``remote`` default to those of that job."""

    job_id: str = Field(min_length=1, max_length=255)

    def about(self, other: Request) -> Self:
        """Return the request with its unset fields taken from the request of the other job."""
        left_out = {"remote", "local", "timeout"} - self.model_fields_set
        return self.model_copy(update={name: getattr(other, name) for name in left_out})


class VerifyRequest(JobRequest):
    """Verify that the remote lists each instance of the job (C-FIND at IMAGE level, PS3.4 section C.4.1).

    ``query_model`` None: Study Root, or Patient Root where the remote offers no other.
    """

    task: ClassVar[str] = "pacs_tasks.verify"

    query_model: Root | None = None


class CommitRequest(JobRequest):
    """Request storage commitment for each instance of the job (PS3.4 annex J).

    ``patience`` is the number of seconds to wait for the next report. None: as in the settings of the worker.
    """

    task: ClassVar[str] = "pacs_tasks.commit"

    patience: float | None = Field(default=None, ge=0, le=86_400)


#: The public tasks whose jobs send files, each with a receipt.
SENDING = frozenset({StoreRequest.task, StoreDirectoryRequest.task, StorePathsRequest.task})
