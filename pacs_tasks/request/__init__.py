"""Requests: frozen values that go from the client to the worker, validated on entry.

A request names the operation and the remote. If ``local`` or ``timeout`` is None, the setting of the worker applies.
"""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pacs_tasks.ae import TLS, LocalAE, RemoteAE, WrongValueError
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request.base import (
    BULK_APART,
    UID,
    AccessionNumber,
    EchoRequest,
    Level,
    ListedUID,
    PatientID,
    Priority,
    QueryModel,
    Request,
    RetrieveMethod,
    StandardUID,
    TransferRequest,
)
from pacs_tasks.request.find import FindBatchRequest, FindRequest, FindRow, Query
from pacs_tasks.request.retrieve import GetRequest, MoveRequest, RetrieveRequest, Selection
from pacs_tasks.request.store import (
    CommitRequest,
    FilesRequest,
    JobRequest,
    PreflightRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
    Transcode,
    VerifyRequest,
)

__all__ = [
    "BULK_APART",
    "UID",
    "AccessionNumber",
    "AnyRequest",
    "AnyTransfer",
    "CommitRequest",
    "EchoRequest",
    "FilesRequest",
    "FindBatchRequest",
    "FindRequest",
    "FindRow",
    "GetRequest",
    "JobRequest",
    "Level",
    "ListedUID",
    "MoveRequest",
    "PatientID",
    "PreflightRequest",
    "Priority",
    "Query",
    "QueryModel",
    "R",
    "Request",
    "RetrieveMethod",
    "RetrieveRequest",
    "Selection",
    "StandardUID",
    "StoreDirectoryRequest",
    "StorePathsRequest",
    "StoreRequest",
    "Transcode",
    "TransferRequest",
    "VerifyRequest",
    "build",
]

#: The requests whose jobs have an outcome for each file, instance or row.
AnyTransfer = StoreRequest | StoreDirectoryRequest | StorePathsRequest | FindBatchRequest | RetrieveRequest
AnyRequest = (
    EchoRequest
    | AnyTransfer
    | PreflightRequest
    | FindRequest
    | MoveRequest
    | GetRequest
    | VerifyRequest
    | CommitRequest
)

#: Wrong fields that one message names, and characters of the caller's own names that it repeats.
_MOST_SHOWN = 10
_LONGEST_SHOWN = 200

R = TypeVar("R", bound=Request)
V = TypeVar("V", bound=BaseModel)


def build(request_type: type[V], fields: Mapping[str, Any]) -> V:
    """Build a request, or a part of one, from plain values.

    Raises
    ------
    InvalidRequestError
        If a field is wrong. The message names each of them, and neither values nor names that no request has, since
        these may be patient data; the caller finds them in ``subject``.
    """
    try:
        return request_type.model_validate(dict(fields))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        wrong = "; ".join(_what_is_wrong(each) for each in found[:_MOST_SHOWN])
        if len(found) > _MOST_SHOWN:
            wrong += f"; and {len(found) - _MOST_SHOWN} more"
        shown = ", ".join(text for each in found[:_MOST_SHOWN] for text in _private(each))
        raise InvalidRequestError(
            f"{request_type.__name__} is not valid ({wrong}). Correct it and try again.", shown[:_LONGEST_SHOWN]
        ) from None


def _what_is_wrong(error: ErrorDetails) -> str:
    """Name the field and what is wrong with it, without names that the caller invented."""
    known = [str(part) for part in error["loc"] if isinstance(part, int) or part in _fields()]
    if error["type"] == "extra_forbidden":
        known.append("an unknown field")
    return f"{'.'.join(known) or 'request'}: {error['msg'].removeprefix('Value error, ')}"


def _private(error: ErrorDetails) -> Iterator[str]:
    """Give the names and the value that only the caller sees, in a form that any terminal can show."""
    reason = error.get("ctx", {}).get("error")
    for part in (*error["loc"], reason.value if isinstance(reason, WrongValueError) else ""):
        if isinstance(part, str) and part and part not in _fields():
            yield part[:_LONGEST_SHOWN].encode("utf-8", "replace").decode()


@cache
def _fields() -> frozenset[str]:
    """Give the names of all fields of requests and of what is in them."""
    models: list[type[BaseModel]] = [LocalAE, RemoteAE, TLS, Selection, FindRow, *get_args(AnyRequest)]
    return frozenset(name for model in models for name in model.model_fields)
