"""What a service submits: JSON that makes the same requests as the command line and Celery, by the same models."""

import json
from collections.abc import Callable, Collection, Coroutine, Iterator
from email.message import Message
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.request import AnyRequest, JobRequest, PreflightRequest, StorePathsRequest, build
from pacs_tasks.serve.access import Caller, Submitter
from pacs_tasks.serve.problems import RefusedError
from pacs_tasks.serve.spool import Spool
from pacs_tasks.settings import Settings

ModelT = TypeVar("ModelT", bound=BaseModel)

#: The tasks that can send an upload.
_WITH_PATHS = (StorePathsRequest.task, PreflightRequest.task)
_SCHEMAS = "#/components/schemas/"
_JSON = "application/json"
#: Bytes of a body that takes less time to parse than to hand to a thread; a large batch of queries takes half a second.
_SMALL = 4096
#: Values of a body at most, by its commas and brackets: those of 100,000 rows with 40 keys each. The decoder is written
#: in C: nobody else runs while it reads an array, and `[[],[],...]` takes 28 times its bytes.
_MOST_VALUES = 4_000_000
#: Bodies that stand for the defaults, where every field has one.
_NOTHING = (b"", b"null")


class Submission(BaseModel):
    """A request to enqueue.

    Attributes
    ----------
    task
        The name of the public task.
    request
        The fields of its request.
    remote
        The name of a remote of the settings, instead of the field ``remote`` of the request.
    upload
        The id of an upload, instead of the field ``paths`` of the request.
    """

    model_config = ConfigDict(extra="forbid")

    task: str
    request: dict[str, Any] = Field(default_factory=dict)
    remote: str | None = None
    upload: str | None = None

    def to_request(self, settings: Settings, spool: Spool, known: Collection[str] = ()) -> AnyRequest:
        """Build the request.

        Parameters
        ----------
        known
            The paths of the job that the same call has enqueued before.

        Raises
        ------
        InvalidRequestError
            If there is no such task or remote, or a field is wrong.
        RefusedError
            If there is no such upload.
        """
        operation = OPERATIONS.get(self.task)
        if operation is None:
            raise InvalidRequestError(f"There is no such task. Name one of {', '.join(OPERATIONS)}.", self.task[:200])
        fields = dict(self.request)
        if self.remote is not None:
            if "remote" in fields:
                raise InvalidRequestError("The remote is named twice. Leave out one of remote and request.remote.")
            if self.remote not in settings.remotes:
                raise InvalidRequestError(
                    "The settings have no remote of this name. `GET /remotes` lists them.", self.remote[:200]
                )
            fields["remote"] = settings.remote(self.remote)
        elif "remote" not in fields and not issubclass(operation.request, JobRequest):
            fields["remote"] = settings.default_remote
        if self.upload is not None:
            if "paths" in fields or self.task not in _WITH_PATHS:
                raise InvalidRequestError(
                    "An upload stands for the field paths. Leave that field out, and name a task that has it: "
                    f"{' or '.join(_WITH_PATHS)}."
                )
            fields["paths"] = [str(spool.path(self.upload, known))]
        return build(operation.request, fields)


def schemas(*others: type[BaseModel]) -> dict[str, Any]:
    """Give the schemas of OpenAPI for :class:`Submission`, with the request of each task, and for other bodies."""
    models = [*(operation.request for operation in OPERATIONS.values()), *others]
    _, found = models_json_schema([(each, "validation") for each in models], ref_template=f"{_SCHEMAS}{{model}}")
    definitions: dict[str, Any] = found["$defs"]
    forms = dict(_forms())
    submission = {
        "description": "A request to enqueue.",
        "oneOf": [{"$ref": f"{_SCHEMAS}{name}"} for name in forms],
        "discriminator": {
            "propertyName": "task",
            "mapping": {form["properties"]["task"]["const"]: f"{_SCHEMAS}{name}" for name, form in forms.items()},
        },
    }
    return {**definitions, **forms, Submission.__name__: submission}


def _forms() -> Iterator[tuple[str, dict[str, Any]]]:
    remote = {"type": "string", "description": "A remote of the settings, instead of `request.remote`."}
    upload = {"type": "string", "description": "The id of an upload, instead of `request.paths`."}
    for task, operation in OPERATIONS.items():
        name = operation.request.__name__
        properties = {"task": {"const": task}, "request": {"$ref": f"{_SCHEMAS}{name}"}, "remote": remote}
        form = {
            "type": "object",
            "properties": {**properties, "upload": upload} if task in _WITH_PATHS else properties,
            "required": ["task"],
            "additionalProperties": False,
        }
        yield f"Submit{name}", form


def body_of(model: type[ModelT]) -> Callable[[Request, Caller], Coroutine[Any, Any, ModelT]]:
    """Make the dependency that reads a body of this model. Without a required field the body may be missing.

    It is read once the caller is known: FastAPI itself would read it before.
    """
    optional = _optional(model)

    async def read(request: Request, _caller: Submitter) -> ModelT:
        try:
            raw = await request.body()
        except ClientDisconnect:
            raise _malformed() from None
        if optional and raw.strip() in _NOTHING:
            return model()
        if not _is_json(request.headers.get("content-type", "")):
            raise RefusedError(
                415, "UnsupportedMediaTypeError", f"The body is not JSON. Send it with `Content-Type: {_JSON}`."
            )
        if len(raw) <= _SMALL:
            return _parse(model, raw)
        return await run_in_threadpool(_parse, model, raw)

    return read


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Describe such a body in OpenAPI."""
    schema = {"$ref": f"{_SCHEMAS}{model.__name__}"}
    if _optional(model):
        content = {"anyOf": [schema, {"type": "null"}], "title": model.__name__}
        return {"requestBody": {"content": {_JSON: {"schema": content}}}}
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": schema}}}}


def _optional(model: type[BaseModel]) -> bool:
    return not any(each.is_required() for each in model.model_fields.values())


def _is_json(content_type: str) -> bool:
    header = Message()
    header["Content-Type"] = content_type
    return header.get_content_type() == _JSON or (
        header.get_content_maintype() == "application" and header.get_content_subtype().endswith("+json")
    )


def _parse(model: type[ModelT], raw: bytes) -> ModelT:
    if raw.count(b",") + raw.count(b"[") > _MOST_VALUES:
        raise RefusedError(413, "ContentTooLargeError", f"The body has more than {_MOST_VALUES:,} values. Divide it.")
    try:
        # ValueError: malformed, not UTF-8, or a number of thousands of digits. RecursionError: nested too deep.
        document = json.loads(raw.decode("utf-8-sig"), parse_constant=_not_a_number, object_hook=_let_others_run)
    except (ValueError, RecursionError):
        raise _malformed() from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None


def _let_others_run(fields: dict[str, Any]) -> dict[str, Any]:
    """Be a function of Python: the decoder, which is written in C, would let no other thread run until its end."""
    return fields


def _not_a_number(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads although they are not JSON (RFC 8259 section 6)."""
    raise ValueError(name)


def _malformed() -> RefusedError:
    return RefusedError(400, "MalformedJsonError", "The body is not valid JSON in UTF-8. Correct it and try again.")
