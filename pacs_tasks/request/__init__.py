"""Requests: frozen values that go from the client to the worker, validated on entry.

A request names the operation and the remote. If ``local`` or ``timeout`` is None, the setting of the worker applies.
"""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request.base import (
    BULK_APART,
    UID,
    AccessionNumber,
    EchoRequest,
    Keys,
    Level,
    ListedUID,
    PatientID,
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
    "CommitRequest",
    "EchoRequest",
    "FilesRequest",
    "FindBatchRequest",
    "FindRequest",
    "FindRow",
    "GetRequest",
    "JobRequest",
    "Keys",
    "Level",
    "ListedUID",
    "MoveRequest",
    "PatientID",
    "PreflightRequest",
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

AnyRequest = (
    EchoRequest
    | StoreRequest
    | StoreDirectoryRequest
    | StorePathsRequest
    | PreflightRequest
    | FindRequest
    | FindBatchRequest
    | MoveRequest
    | GetRequest
    | RetrieveRequest
    | VerifyRequest
    | CommitRequest
)

R = TypeVar("R", bound=Request)
V = TypeVar("V", bound=BaseModel)


def build(request_type: type[V], fields: Mapping[str, Any]) -> V:
    """Build a request, or a part of one, from plain values.

    Raises
    ------
    InvalidRequestError
        If a field is wrong. The message names each of them and no value, since values may be patient data.
    """
    try:
        return request_type.model_validate(dict(fields))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in each['loc']) or 'request'}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_url=False, include_input=False)
        )
        raise InvalidRequestError(
            f"{request_type.__name__} is not valid ({wrong}). Correct it and try again."
        ) from None
