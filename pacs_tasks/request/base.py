"""The fields of every request with the values in them, and the request for C-ECHO."""

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

from pacs_tasks.ae import LocalAE, RemoteAE

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
#: Lone surrogates.
_HALF = re.compile("[\ud800-\udfff]")
#: Nobody's UID has these: they separate names, values or columns, or stand for others.
_NEVER_IN_UIDS = frozenset("/\\*?,;:|<>\"'")
_LONGEST_LISTED_UID = 128


def _check_standard_uid(value: str) -> str:
    """Check the rules of PS3.5 section 9.1. Leading zeroes are common and accepted."""
    stripped = value.strip("\0 ")
    if len(stripped) > 64 or not _UID.fullmatch(stripped):
        raise ValueError("a UID has at most 64 characters, digits and single dots only, such as 1.2.840.10008.1.1")
    return stripped


def _check_uid(value: str) -> str:
    """Accept what remotes use as a UID too: the Standard restricts who makes a UID, not who asks for it."""
    stripped = value.strip("\0 ")
    graphic = all("!" <= each <= "~" for each in stripped) and not _NEVER_IN_UIDS.intersection(stripped)
    # A word without a digit is a slip of the pen.
    components = [each for each in stripped.split(".") if each]
    named = bool(components) and all(any(map(str.isdigit, each)) for each in components)
    if len(stripped) > 64 or not graphic or not named:
        raise ValueError("a UID has at most 64 characters, digits and single dots only, such as 1.2.840.10008.1.1")
    return stripped


def _check_listed_uid(value: str) -> str:
    """Accept what a remote lists or sends as a UID, unless it would lead out of a directory or cannot be repeated."""
    stripped = value.strip("\0 ")
    if not 0 < len(stripped) <= _LONGEST_LISTED_UID or not all(" " <= each <= "~" for each in stripped):
        raise ValueError("a UID has 1 to 128 printable characters")
    if {"/", "\\"}.intersection(stripped):
        raise ValueError("a UID has no slash")
    return stripped


#: VR UI as the Standard wants it (PS3.5 section 9.1), as users may name it, and as remotes have it.
StandardUID = Annotated[str, AfterValidator(_check_standard_uid)]
UID = Annotated[str, AfterValidator(_check_uid)]
ListedUID = Annotated[str, AfterValidator(_check_listed_uid)]


def _check_accession_number(value: str) -> str:
    """Check a value of VR SH (PS3.5 section 6.2) without wild cards of a query (PS3.4 section C.2.2.2.4)."""
    stripped = value.strip(" ")
    if not 0 < len(stripped) <= 16 or not stripped.isprintable() or set(stripped) & set("\\*?"):
        raise ValueError("an accession number has 1 to 16 characters, none of them a backslash, * or ?")
    return stripped


def _check_patient_id(value: str) -> str:
    """Check a value of VR LO (PS3.5 section 6.2) without wild cards of a query (PS3.4 section C.2.2.2.4)."""
    stripped = value.strip(" ")
    if not 0 < len(stripped) <= 64 or not stripped.isprintable() or set(stripped) & set("\\*?"):
        raise ValueError("a Patient ID has 1 to 64 characters, none of them a backslash, * or ?")
    return stripped


PatientID = Annotated[str, AfterValidator(_check_patient_id)]
AccessionNumber = Annotated[str, AfterValidator(_check_accession_number)]


def _check_keys(value: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse half characters: neither Redis nor DICOM can hold them, and their error would repeat the value."""
    for part in (*value.keys(), *value.values()):
        if not part.isascii() and _HALF.search(part):
            raise ValueError("a key has a character that is not Unicode; write it anew")
    return MappingProxyType(dict(value))


Keys = Annotated[
    Mapping[str, str],
    AfterValidator(_check_keys),
    PlainSerializer(dict, return_type=dict[str, str]),
]


class Level(StrEnum):
    """Query/Retrieve Level, (0008,0052), PS3.4 section C.3."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


class QueryModel(StrEnum):
    """Information model of a query: Query/Retrieve (PS3.4 section C.3) or Modality Worklist (section K.6.1)."""

    PATIENT_ROOT = "patient"
    STUDY_ROOT = "study"
    #: Only for queries. It has no levels.
    WORKLIST = "worklist"


def _no_worklist(model: QueryModel) -> QueryModel:
    if model is QueryModel.WORKLIST:
        raise ValueError("a worklist holds no instances; name the patient root or the study root")
    return model


#: A query model of instances.
Root = Annotated[QueryModel, AfterValidator(_no_worklist)]


class RetrieveMethod(StrEnum):
    """How to retrieve. ``auto`` is C-MOVE if a receiver runs that the remote knows, else C-GET."""

    AUTO = "auto"
    MOVE = "move"
    GET = "get"


class Priority(StrEnum):
    """How urgent a request is: what workers do first, and Priority, (0000,0700), of its DIMSE requests."""

    STAT = "stat"
    NORMAL = "normal"
    BULK = "bulk"


#: The validation context of a request that is read without its bulk, which would otherwise be invalid.
BULK_APART: Mapping[str, bool] = MappingProxyType({"bulk_apart": True})


class Request(BaseModel):
    """A request to a remote."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    #: The name of the public task that serves it.
    task: ClassVar[str]
    #: A field that may be large, or "". The ledger keeps it apart, since each progress reads the others.
    bulk: ClassVar[str] = ""

    remote: RemoteAE = Field(default_factory=RemoteAE)
    local: LocalAE | None = None
    #: Seconds that the remote may stay silent: to connect, to accept the association, between two messages.
    timeout: float | None = Field(default=None, gt=0, le=86_400)
    #: The least category with which Celery counts the task as successful: `success` (warnings are allowed) or
    #: `partial`. The task of a worse outcome fails with `JobOutcomeError`. None: Celery counts every outcome as a
    #: success.
    raise_unless: Literal["success", "partial"] | None = None
    #: `stat` goes before `normal`, and `normal` before `bulk`, which still gets a twentieth of the work.
    priority: Priority = Priority.NORMAL


class EchoRequest(Request):
    """Verify that the remote answers and accepts an association (C-ECHO, PS3.4 annex A)."""

    task: ClassVar[str] = "pacs_tasks.echo"

    #: Also propose the services that pacs-tasks uses, and report which of them the remote accepts. None, as False, is
    #: left out of a message, so that older workers read it.
    services: bool | None = None


class TransferRequest(Request):
    """A request whose job waits while the remote is down."""

    #: Seconds to wait. None: as in the settings of the worker.
    give_up_after: float | None = Field(default=None, ge=0, le=30 * 86_400)
