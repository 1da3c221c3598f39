"""Errors as problem details (RFC 9457), with the names, messages, advice and exit codes of the command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from pacs_tasks.cli.output.exit_codes import ExitCode, advice_on, of_error
from pacs_tasks.errors import (
    BrokerSettingError,
    BrokerUnavailableError,
    InvalidRequestError,
    JobCancelledError,
    JobError,
    JobNotFoundError,
    JobNotReadyError,
    PacsTasksError,
)

logger = logging.getLogger("pacs_tasks.serve")

MEDIA_TYPE = "application/problem+json"
#: The first class that fits decides. The errors of remotes come with jobs that failed, so a gateway failed.
_STATUS: tuple[tuple[type[PacsTasksError], int], ...] = (
    (BrokerSettingError, 500),
    (BrokerUnavailableError, 503),
    (InvalidRequestError, 422),
    (JobNotFoundError, 404),
    (JobNotReadyError, 409),
    (JobCancelledError, 409),
    (JobError, 502),
)
#: Seconds after which to try again while the Redis is away.
_RETRY_AFTER = 5


class Problem(BaseModel):
    """What went wrong (RFC 9457). ``code`` is the name of the error, as on the command line with ``--json``."""

    type: str
    title: str
    status: int
    #: What happened, and what to do.
    detail: str
    code: str
    #: What the message is about, such as a path; empty unless the caller may see it.
    subject: str = ""
    advice: str = ""
    exit_code: int


class RefusedError(Exception):
    """A request that HTTP refuses before any operation is asked for."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


def response(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """Make the response that reports a problem."""
    code_of_cli = ExitCode.USAGE if status < HTTPStatus.INTERNAL_SERVER_ERROR else ExitCode.FAILED
    fields = {"exit_code": int(code_of_cli), **more}
    problem = Problem(
        type=f"urn:pacs-tasks:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        **fields,
    )
    text = json.dumps(problem.model_dump(), ensure_ascii=False, separators=(",", ":"))
    # Of a value of the caller, half a surrogate pair becomes its escape, as UTF-8 has none.
    return Response(text.encode("utf-8", "backslashreplace"), status, headers, MEDIA_TYPE)


def status_of(error: PacsTasksError) -> int:
    """Return the status code of HTTP for an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def on_error(request: Request, error: PacsTasksError) -> Response:
    """Report an error of this package. A path in it is for the caller who named it, or who may see patient data."""
    status = status_of(error)
    shown = error if isinstance(error, InvalidRequestError) else error.public()
    headers = {"Retry-After": str(_RETRY_AFTER)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error(
            "%s %s: %s", request.method, getattr(request.scope.get("route"), "path", ""), error.public().message
        )
    return response(
        status,
        type(error).__name__,
        shown.message,
        headers,
        subject=shown.subject,
        advice=advice_on(error, ""),
        exit_code=int(of_error(error)),
    )


def on_refusal(_request: Request, error: RefusedError) -> Response:
    """Report that HTTP refuses a request."""
    # RFC 6750 section 3.
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
    return response(error.status, error.code, error.detail, headers)


def on_http_error(request: Request, error: HTTPException) -> Response:
    """Report what the framework refuses: an unknown path or method."""
    status = HTTPStatus(error.status_code)
    code = f"{''.join(word.capitalize() for word in status.name.split('_'))}Error"
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(_allowed(request))
    return response(status, code, f"{status.description or status.phrase}.", headers)


def _allowed(request: Request) -> list[str]:
    """List the methods of all routes of a path: the framework names those of the first one."""
    scopes = {method: {**request.scope, "method": method} for method in ("GET", "POST", "DELETE")}
    found = [
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]
    return ["HEAD", *found] if "GET" in found else found


def on_invalid(_request: Request, error: RequestValidationError) -> Response:
    """Report parameters that are wrong, without their values."""
    wrong = "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}" for each in error.errors()
    )
    return response(422, "InvalidRequestError", f"The request is not valid ({wrong}). Correct it and try again.")
