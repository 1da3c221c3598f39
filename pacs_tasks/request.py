"""What a job asks: frozen, validated where it enters, and the one thing that crosses to the worker.

A request carries what and whom. ``local`` and ``timeout`` say who calls and how patiently; left out, the worker's
settings answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from pacs_tasks.ae import AETitle, LocalAE, RemoteAE
from pacs_tasks.errors import InvalidRequestError

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def _check_uid(value: str) -> str:
    """Digits and dots, at most 64 of them (PS3.5 section 9.1); leading zeroes are common in the field and pass."""
    stripped = value.strip("\0 ")
    if len(stripped) > 64 or not _UID.fullmatch(stripped):
        raise ValueError("a UID has at most 64 characters, digits and single dots only, such as 1.2.840.10008.1.1")
    return stripped


#: VR UI (PS3.5 section 9.1).
UID = Annotated[str, AfterValidator(_check_uid)]
Keys = Annotated[
    Mapping[str, str],
    AfterValidator(lambda value: MappingProxyType(dict(value))),
    PlainSerializer(dict, return_type=dict[str, str]),
]


class Level(StrEnum):
    """Query/Retrieve Level, (0008,0052), PS3.4 section C.3."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


class QueryModel(StrEnum):
    """Query/Retrieve information model (PS3.4 section C.3)."""

    PATIENT_ROOT = "patient"
    STUDY_ROOT = "study"


class RetrieveMethod(StrEnum):
    """How instances come: ``auto`` is C-MOVE where a receiver runs and the peer knows it, else C-GET."""

    AUTO = "auto"
    MOVE = "move"
    GET = "get"


class Request(BaseModel):
    """What every job asks."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: The public task that serves this request.
    task: ClassVar[str]

    remote: RemoteAE = RemoteAE()
    local: LocalAE | None = None
    #: Seconds that the peer may stay silent: to connect, to accept the association, between two messages.
    timeout: float | None = Field(default=None, gt=0, le=86_400)


class EchoRequest(Request):
    """Is the peer there, and does it accept us? (C-ECHO, PS3.4 annex A)"""

    task: ClassVar[str] = "pacs_tasks.echo"


class TransferRequest(Request):
    """A request that may wait for a peer that is down."""

    #: Seconds after which it gives up; left out, the worker's settings answer.
    give_up_after: float | None = Field(default=None, ge=0, le=30 * 86_400)


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


class FindRequest(Request):
    """Query (C-FIND, PS3.4 section C.4.1).

    ``keys`` maps keywords of the DICOM data dictionary (or ``ggggeeee`` tags) to values; an empty value asks for the
    attribute in return. ``limit`` stops the peer with C-CANCEL after so many matches.
    ``query_model`` is chosen by the level where left out: Patient Root for PATIENT, else Study Root.
    """

    task: ClassVar[str] = "pacs_tasks.find"

    level: Level = Level.STUDY
    keys: Keys = Field(default_factory=lambda: MappingProxyType({}))
    query_model: QueryModel | None = None
    limit: int | None = Field(default=None, ge=1)


class _RetrieveOperation(Request):
    """What one C-MOVE or C-GET names: a study, a series of it, or instances of that series."""

    study_uid: UID
    series_uid: UID | None = None
    sop_instance_uids: tuple[UID, ...] = ()

    @model_validator(mode="after")
    def _instances_need_their_series(self) -> Self:
        """A unique key of a level needs those of the levels above it (PS3.4 section C.4.2.2.1)."""
        if self.sop_instance_uids and self.series_uid is None:
            raise ValueError("sop_instance_uids need the series_uid that they belong to")
        return self


class MoveRequest(_RetrieveOperation):
    """Let the peer send a study or series to the AE ``move_aet``, whoever that is (C-MOVE, PS3.4 section C.4.2)."""

    task: ClassVar[str] = "pacs_tasks.move"

    move_aet: AETitle


class GetRequest(_RetrieveOperation):
    """Fetch a study or series to ``output_dir`` on the association that asks for it (C-GET, PS3.4 section C.4.3)."""

    task: ClassVar[str] = "pacs_tasks.get"

    output_dir: str = Field(min_length=1)


class RetrieveRequest(TransferRequest):
    """Bring a study (or one series of it) to ``output_dir`` and compare what arrived with what the peer listed.

    ``move_aet`` names the receiver to use; where left out, any receiver that runs.
    """

    task: ClassVar[str] = "pacs_tasks.retrieve"

    study_uid: UID
    output_dir: str = Field(min_length=1)
    series_uid: UID | None = None
    method: RetrieveMethod = RetrieveMethod.AUTO
    move_aet: AETitle | None = None


class JobRequest(Request):
    """What is asked about another job, by its id. ``remote`` and the like are those of that job where left out."""

    job_id: str = Field(min_length=1, max_length=255)

    def about(self, other: Request) -> Self:
        """The same request, with what it leaves out taken from the request of the job that it is about."""
        left_out = {"remote", "local", "timeout"} - self.model_fields_set
        return self.model_copy(update={name: getattr(other, name) for name in left_out})


class VerifyRequest(JobRequest):
    """Does the peer list each instance that the job ``job_id`` sent? (C-FIND at IMAGE level, PS3.4 section C.4.1)"""

    task: ClassVar[str] = "pacs_tasks.verify"


class CommitRequest(JobRequest):
    """Have the peer answer for each instance that the job ``job_id`` sent (storage commitment, PS3.4 annex J).

    ``patience`` is how many seconds it may take for its next report; left out, the worker's settings say.
    """

    task: ClassVar[str] = "pacs_tasks.commit"

    patience: float | None = Field(default=None, ge=0, le=86_400)


AnyRequest = (
    EchoRequest
    | StoreRequest
    | StoreDirectoryRequest
    | PreflightRequest
    | FindRequest
    | MoveRequest
    | GetRequest
    | RetrieveRequest
    | VerifyRequest
    | CommitRequest
)

REQUESTS: Mapping[str, type[AnyRequest]] = MappingProxyType(
    {
        request.task: request
        for request in (
            EchoRequest,
            StoreRequest,
            StoreDirectoryRequest,
            PreflightRequest,
            FindRequest,
            MoveRequest,
            GetRequest,
            RetrieveRequest,
            VerifyRequest,
            CommitRequest,
        )
    }
)

R = TypeVar("R", bound=Request)


def build(request_type: type[R], fields: Mapping[str, Any]) -> R:
    """Build a request from plain values.

    Raises
    ------
    InvalidRequestError
        With one sentence that names each wrong field and never repeats a value, since values may be patient data.
    """
    try:
        return request_type.model_validate(dict(fields))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in each['loc']) or 'request'}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_url=False, include_input=False)
        )
        raise InvalidRequestError(f"{request_type.__name__} is not valid ({wrong}); correct it and ask again") from None
